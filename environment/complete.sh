#!/bin/sh
# Completes a Debian 13 that has packages.txt, as root inside it: Kokkos, the headers of Kokkos Kernels, and those of HIP.
set -eu

# The mirror that this Debian uses already.
# shellcheck disable=SC2016  # apt-get expands these
mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' | awk '$1 == "trixie" { print $2; exit }')
[ -n "$mirror" ] || { echo "complete.sh: no lists of Debian's suite trixie here; run apt-get update first" >&2; exit 1; }

newer_suite() {  # SUITE PACKAGES PRIORITY: packages that Debian stable does not have; everything else stays stable
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"/etc/apt/sources.list.d/$1.list"
  printf 'Package: *\nPin: release n=%s\nPin-Priority: 50\n\nPackage: %s\nPin: release n=%s\nPin-Priority: %s\n' \
    "$1" "$2" "$1" "$3" >"/etc/apt/preferences.d/$1"
}
newer_suite sid 'libkokkos*' 600
newer_suite experimental none 50
apt-get update
apt-get install --yes --no-install-recommends libkokkos-dev

# Debian's package forgets two (empty) archives that its CMake configuration names.
libraries=$(dirname "$(find /usr/lib -name libkokkoscore.so -print -quit)")
for archive in libkokkosalgorithms.a libkokkossimd.a; do
  [ -e "$libraries/$archive" ] || ar qc "$libraries/$archive"
done

# Kokkos Kernels is used header-only; the package's dependencies would bring a second Kokkos.
cd /tmp
apt-get download libtrilinos-kokkos-kernels-dev/experimental
dpkg -x libtrilinos-kokkos-kernels-dev_*.deb /
rm -f libtrilinos-kokkos-kernels-dev_*.deb

# The headers of HIP, to compile kernels for AMD GPUs; the package's dependencies would bring all of ROCm's run time.
apt-get download libamdhip64-dev/sid
dpkg -x libamdhip64-dev_*.deb /opt/hip
rm -f libamdhip64-dev_*.deb
apt-get clean
