// Arrays that are wrong: each is refused in one line that names the file and the place, and nothing is written.

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <filesystem>
#include <limits>

#include "attend_case.hpp"

namespace espalier::test {
namespace {

constexpr HeadShape kHeads{4, 2, 16};
const std::string kTree = "star:8,2,3";  // 2 rows, 14 tokens

AttendCase good_case() { return {2, 14, kHeads}; }

/// Replaces one array by a file with this content and checks the refusal.
void refuses(const std::string& name, const std::string& content, std::initializer_list<std::string> words) {
  const AttendCase files = good_case();
  files.folder().write(name + ".npy", content);
  files.refuses(kTree, words);
}

std::string zeros(std::size_t count) { return std::string(count * 4, '\0'); }

std::string header(const std::string& type, const std::string& order, const std::string& shape) {
  return "{'descr': '" + type + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }\n";
}

TEST_CASE("an array that is no readable file is refused") {
  const AttendCase files = good_case();
  std::filesystem::remove(files.folder().path("k.npy"));
  files.refuses(kTree, {"k.npy", "cannot be opened"});
  std::filesystem::create_directory(files.folder().path("k.npy"));
  files.refuses(kTree, {"k.npy", "directory"});
  refuses("q", "", {"q.npy", "empty"});
  refuses("q", "\x93NUM", {"q.npy", "signature"});
  refuses("q", "PK\x03\x04 an npz archive, not an array", {"q.npy", "signature"});
}

TEST_CASE("a truncated array is refused") {
  const std::string whole = npy_of({"<f4", {14, 2, 16}, std::vector<float>(14 * 2 * 16, 1.0f)});
  for (const std::size_t bytes : {std::size_t(6), std::size_t(7), std::size_t(9), std::size_t(10), std::size_t(60),
                                  std::size_t(128), whole.size() - 1}) {
    CAPTURE(bytes);
    refuses("v", whole.substr(0, bytes), {"v.npy", "truncated"});
  }
  refuses("v", whole + "x", {"v.npy", "1 bytes behind"});
}

TEST_CASE("a header that is wrong is refused") {
  const std::string data = zeros(2 * 4 * 16), shape = "(2, 4, 16)";
  refuses("q", std::string("\x93NUMPY\x02\x00\xff\xff\xff\xff", 12) + data, {"q.npy", "header of 4294967295 bytes"});
  refuses("q", std::string("\x93NUMPY\x01\x00\xff\xff", 10) + data, {"q.npy", "truncated"});
  refuses("q", std::string("\x93NUMPY\x04\x00\x10\x00", 10) + data, {"q.npy", "version 4.0"});
  for (const std::string text : {"", "{}", "{", "[1]", "{'descr': '<f4', 'fortran_order': False}",
                                 "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 4, 16)}",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 16)} x",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, -4, 16)}",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4.5, 16)}",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2 4 16)}",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 99999999999999999999)}",
                                 "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 16)}",
                                 "{'descr': '<f4, 'fortran_order': False}", "{'descr' '<f4'}",
                                 "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4, 16), 'more': 1}"}) {
    CAPTURE(text);
    refuses("q", npy_with_header(text, data), {"q.npy", "header is malformed"});
  }
  refuses("q", npy_with_header(header("<f4", "False", "(4294967296, 4294967296, 16)"), data), {"q.npy", "64 bits"});
  refuses("q", npy_with_header(header("<f4", "False", "(4294967296, 1048576, 16)"), data), {"q.npy", "truncated"});
  refuses("q", npy_with_header(header("<f4", "True", shape), data), {"q.npy", "Fortran order", "expected C order"});
  for (const std::string type : {"<f8", ">f4", "<i4", "|b1", "<c8", "|S4", "<U1"}) {
    CAPTURE(type);
    refuses("q", npy_with_header(header(type, "False", shape), data), {"q.npy", type, "expected <f4 or <f2"});
  }
  refuses("q", npy_with_header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", data),
          {"q.npy", "records"});
}

TEST_CASE("headers of format versions 2 and 3, and in another order, are read") {
  const AttendCase files = good_case();
  const std::string text = "{\"shape\": (2,4,16), \"fortran_order\":False,\"descr\": \"<f4\"}\n";
  for (const char version : {2, 3}) {
    std::string content = std::string("\x93NUMPY", 6) + version + std::string("\0", 1);
    content += char(text.size());
    content += std::string("\0\0\0", 3) + text + zeros(2 * 4 * 16);
    files.folder().write("q.npy", content);
    CHECK(files.run(kTree).exit_code == 0);
  }
}

TEST_CASE("an array of the wrong shape is refused") {
  const auto array = [](std::vector<std::int64_t> shape) {
    std::size_t elements = 1;
    for (const std::int64_t extent : shape) elements *= std::size_t(extent);
    return npy_of({"<f4", std::move(shape), std::vector<float>(elements, 0.5f)});
  };
  refuses("q", array({2, 64}), {"q.npy", "(2, 64)", "[rows, query_heads, head_dim]"});
  refuses("q", array({}), {"q.npy", "()"});
  refuses("q", array({3, 4, 16}), {"q.npy", "(3, 4, 16)", "2 rows"});
  refuses("q", array({0, 4, 16}), {"q.npy", "2 rows"});
  refuses("q", array({2, 3, 16}), {"q.npy", "multiple of the 2 KV heads"});
  refuses("q", array({2, 0, 16}), {"q.npy", "(2, 0, 16)"});
  refuses("q", array({2, 4, 32}), {"q.npy", "head_dim 16"});
  refuses("k", array({13, 2, 16}), {"k.npy", "(13, 2, 16)", "14 tokens"});
  refuses("k", array({14, 0, 16}), {"k.npy", "(14, 0, 16)"});
  refuses("k", array({14, 1, 2, 16}), {"k.npy", "[tokens, kv_heads, head_dim]"});
  refuses("v", array({14, 4, 16}), {"v.npy", "(14, 4, 16)", "expected (14, 2, 16)"});
  refuses("v", array({15, 2, 16}), {"v.npy", "(15, 2, 16)"});
}

TEST_CASE("numbers that are not finite are refused with their place") {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  for (const std::string type : {"<f4", "<f2"}) {
    for (const float value : {nan, infinity, -infinity}) {
      Array k{type, {14, 2, 16}, std::vector<float>(14 * 2 * 16, 1.0f)};
      k.values[(3 * 2 + 1) * 16 + 5] = value;
      refuses("k", npy_of(k), {"k.npy: k[3, 1, 5] is", std::isnan(value) ? "nan" : "inf", "expected finite"});
      Array q{type, {2, 4, 16}, std::vector<float>(2 * 4 * 16, 1.0f)};
      q.values.back() = value;
      refuses("q", npy_of(q), {"q.npy: q[1, 3, 15]"});
    }
  }
}

TEST_CASE("numbers beyond the range of the element type are refused") {
  const AttendCase files = good_case();
  Array v{"<f4", {14, 2, 16}, std::vector<float>(14 * 2 * 16, 1.0f)};
  v.values[16] = 70000.0f;
  files.folder().write("v.npy", npy_of(v));
  files.refuses(kTree, {"v.npy: v[0, 1, 0]", "f16"}, {"--dtype", "f16"});
  CHECK(files.run(kTree, {"--dtype", "bf16"}).exit_code == 0);
}

TEST_CASE("options that make no sense are refused") {
  const AttendCase files = good_case();
  files.refuses(kTree, {"--block-tokens", "0"}, {"--block-tokens", "0"});
  files.refuses(kTree, {"--block-tokens", "257"}, {"--block-tokens", "257"});
  files.refuses(kTree, {"--scale", "finite number other than 0"}, {"--scale", "0"});
  files.refuses(kTree, {"--scale", "finite"}, {"--scale", "nan"});
  files.refuses(kTree, {"--soft-cap", "0 or more"}, {"--soft-cap", "-1"});
  files.refuses(kTree, {"--soft-cap", "finite"}, {"--soft-cap", "inf"});
  files.refuses(kTree, {"--kernel", "fastest", "portable"}, {"--kernel", "fastest"});
  files.refuses(kTree, {"--strategy", "luck", "sequence"}, {"--strategy", "luck"});
}

TEST_CASE("outputs that cannot be written are refused before anything is computed") {
  const AttendCase files = good_case();
  const auto refuses_outputs = [&](const std::string& out, const std::string& lse,
                                   std::initializer_list<std::string> words) {
    const std::vector<std::string> before = files.folder().files();
    std::vector<std::string> arguments{"attend", kTree, "--out", out, "--lse", lse};
    for (const std::string name : {"q", "k", "v"}) {
      arguments.push_back("--" + name);
      arguments.push_back(files.folder().path(name + ".npy"));
    }
    expects_refusal(run_tool(arguments), words);
    CHECK(files.folder().files() == before);
  };
  const std::string out = files.folder().path("out.npy"), lse = files.folder().path("lse.npy");
  refuses_outputs(files.folder().path("absent/out.npy"), lse, {"absent/out.npy", "cannot be written"});
  refuses_outputs(out, files.folder().path("absent/lse.npy"), {"absent/lse.npy", "cannot be written"});
  refuses_outputs(out, out, {"--lse", "same file"});
  refuses_outputs(out, files.folder().path("./out.npy"), {"--lse", "same file"});
  refuses_outputs("/dev/null", lse, {"/dev/null", "no regular file"});
  std::filesystem::create_directory(files.folder().path("folder"));
  refuses_outputs(files.folder().path("folder"), lse, {"folder", "no regular file"});
}

TEST_CASE("a failed run leaves an older output as it was") {
  const AttendCase files = good_case();
  files.folder().write("out.npy", "old");
  files.folder().write("k.npy", "no array");
  files.refuses(kTree, {"k.npy"});
  CHECK(std::filesystem::file_size(files.folder().path("out.npy")) == 3);
}

}  // namespace
}  // namespace espalier::test
