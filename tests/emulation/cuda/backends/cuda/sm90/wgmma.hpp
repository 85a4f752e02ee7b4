#pragma once
// Stands in for backends/cuda/sm90/wgmma.hpp, which says what each function does. Operands are read either when a product is
// issued or, where emulator::arrives_late, not before it is waited for; registers of accumulators change at the same time.

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "backends/cuda/warp.hpp"
#include "tests/emulation/cuda/copy_engine.hpp"

namespace espalier::gpu::sm90 {

/// Of a warpgroup: four warps, which meet at each product.
struct WarpgroupProducts {
  emulator::Meeting meeting;
  std::vector<std::vector<std::function<void()>>> groups{1};  ///< issued and not complete; the last group is open
  std::array<bool, 4> fenced{};  ///< warps that have, since registers may have been accessed
};

inline constexpr unsigned kWarpgroupLanes = 4 * emulator::kLanes;
inline std::vector<WarpgroupProducts> warpgroup_products;
inline const emulator::AtBlock kProducts(
    [] {
      warpgroup_products.assign((emulator::block.threads + kWarpgroupLanes - 1) / kWarpgroupLanes, {});
      for (WarpgroupProducts& products : warpgroup_products) products.meeting.expected = kWarpgroupLanes;
    },
    [] {
      for (const WarpgroupProducts& products : warpgroup_products) {
        if (products.groups.size() > 1 || !products.groups.front().empty()) {
          emulator::stop("a warpgroup ends before its products are complete");
        }
      }
    });

inline WarpgroupProducts& products_of_warpgroup() {
  return warpgroup_products[emulator::block.thread / kWarpgroupLanes];
}
inline std::size_t warp_of_warpgroup() { return emulator::block.thread % kWarpgroupLanes / emulator::kLanes; }

inline void wgmma_fence() {
  emulator::meet(emulator::wave().meeting, "wgmma.fence",
                 [] { products_of_warpgroup().fenced[warp_of_warpgroup()] = true; });
}

inline void wgmma_commit() {
  emulator::meet(products_of_warpgroup().meeting, "wgmma.commit_group",
                 [] { products_of_warpgroup().groups.emplace_back(); });
}

/// The first warp that waits completes the products of all.
template <int Pending>
void wgmma_wait() {
  emulator::meet(emulator::wave().meeting, "wgmma.wait_group", [] {
    WarpgroupProducts& products = products_of_warpgroup();
    products.fenced[warp_of_warpgroup()] = false;
    while (products.groups.size() - 1 > Pending) {
      for (const auto& product : products.groups.front()) product();
      products.groups.erase(products.groups.begin());
    }
  });
}

/// An operand in shared memory with the 128-byte swizzle, as its descriptor says.
struct SharedMatrix {
  std::uint32_t address, leading, stride;

  explicit SharedMatrix(std::uint64_t descriptor)
      : address(field(descriptor, 0)), leading(field(descriptor, 16)), stride(field(descriptor, 32)) {
    constexpr std::uint64_t kSwizzle128 = 1;
    if (descriptor >> 62 != kSwizzle128) emulator::stop("a matrix descriptor of another swizzle than 128 bytes");
    if ((descriptor >> 49 & 7) != 0) emulator::stop("a matrix descriptor with a base offset");
  }

  /// Rows of 64 elements that follow the sum: element k of row `outer`.
  template <class T>
  [[nodiscard]] float along_sum(unsigned outer, unsigned k) const {
    return element<T>(outer / 8 * stride + outer % 8 * 128 + 2 * k);
  }

  /// Rows of 64 elements for each k, blocks of 64 `leading` bytes apart.
  template <class T>
  [[nodiscard]] float across_sum(unsigned outer, unsigned k) const {
    return element<T>(outer / 64 * leading + k / 8 * stride + k % 8 * 128 + outer % 64 * 2);
  }

 private:
  static std::uint32_t field(std::uint64_t descriptor, int shift) {
    return static_cast<std::uint32_t>(descriptor >> shift & 0x3fff) << 4;
  }

  template <class T>
  [[nodiscard]] float element(std::uint32_t offset) const {
    return to_float(T{emulator::load_shared_value<std::uint16_t>(emulator::swizzled(address + offset))});
  }
};

template <class T, int kColumns>
struct WarpgroupProduct {
  std::array<float*, kWarpgroupLanes> sums;
  std::array<const std::uint32_t*, kWarpgroupLanes> left_registers;  ///< or null
  std::uint64_t left, right;                                         ///< descriptors
  bool accumulate;

  void operator()() const {
    static float a[64][16], b[16][kColumns];
    read_left(a);
    const SharedMatrix matrix(right);
    for (unsigned k = 0; k < 16; ++k) {
      for (unsigned column = 0; column < kColumns; ++column) {
        b[k][column] = left_registers[0] ? matrix.across_sum<T>(column, k) : matrix.along_sum<T>(column, k);
      }
    }
    for (unsigned row = 0; row < 64; ++row) {
      float sum[kColumns] = {};
      for (unsigned k = 0; k < 16; ++k) {
        for (unsigned column = 0; column < kColumns; ++column) sum[column] += a[row][k] * b[k][column];
      }
      for (unsigned column = 0; column < kColumns; ++column) {
        const unsigned lane = row / 16 * emulator::kLanes + row % 8 * 4 + column % 8 / 2;
        float& place = sums[lane][column / 8 * 4 + row % 16 / 8 * 2 + column % 2];
        place = accumulate ? place + sum[column] : sum[column];
      }
    }
  }

 private:
  void read_left(float (&a)[64][16]) const {
    if (!left_registers[0]) {
      const SharedMatrix matrix(left);
      for (unsigned row = 0; row < 64; ++row) {
        for (unsigned k = 0; k < 16; ++k) a[row][k] = matrix.along_sum<T>(row, k);
      }
      return;
    }
    for (unsigned i = 0; i < kWarpgroupLanes; ++i) {
      const unsigned row = i / emulator::kLanes * 16 + i % emulator::kLanes / 4;
      for (unsigned part = 0; part < 4; ++part) {
        for (unsigned half = 0; half < 2; ++half) {
          a[row + part % 2 * 8][i % 4 * 2 + half + part / 2 * 8] =
              emulated_half<T>(left_registers[i][part], static_cast<int>(half));
        }
      }
    }
  }
};

/// The product that the lanes of each warpgroup bring together.
template <class T, int kColumns>
WarpgroupProduct<T, kColumns>& product_of_warpgroup() {
  static std::map<unsigned, WarpgroupProduct<T, kColumns>> products;
  return products[emulator::block.thread / kWarpgroupLanes];
}

template <class T, int kColumns>
void issue_product(float* sums, const std::uint32_t* left_registers, std::uint64_t left, std::uint64_t right,
                   int accumulate) {
  WarpgroupProducts& products = products_of_warpgroup();
  if (!products.fenced[warp_of_warpgroup()])
    emulator::stop("a product without a fence since its registers were accessed");
  auto& product = product_of_warpgroup<T, kColumns>();
  if (products.meeting.arrived == 0) {
    product.left = left;
    product.right = right;
    product.accumulate = accumulate != 0;
  } else if (product.left != left || product.right != right || product.accumulate != (accumulate != 0)) {
    emulator::stop("lanes of a warpgroup multiply different matrices");
  }
  const unsigned lane = emulator::block.thread % kWarpgroupLanes;
  product.sums[lane] = sums;
  product.left_registers[lane] = left_registers;
  emulator::meet(products.meeting, left_registers ? "wgmma with registers" : "wgmma", [&] {
    if (emulator::arrives_late)
      products.groups.back().emplace_back(product);
    else
      product();
  });
}

template <class T>
void wgmma_n64(float* d, std::uint64_t a, std::uint64_t b, int accumulate) {
  issue_product<T, 64>(d, nullptr, a, b, accumulate);
}

template <class T>
void wgmma_n64(float* d, const std::uint32_t* a, std::uint64_t b, int accumulate) {
  issue_product<T, 64>(d, a, 0, b, accumulate);
}

template <class T>
void wgmma_n128(float* d, std::uint64_t a, std::uint64_t b, int accumulate) {
  issue_product<T, 128>(d, nullptr, a, b, accumulate);
}

template <class T>
void wgmma_n128(float* d, const std::uint32_t* a, std::uint64_t b, int accumulate) {
  issue_product<T, 128>(d, a, 0, b, accumulate);
}

}  // namespace espalier::gpu::sm90
