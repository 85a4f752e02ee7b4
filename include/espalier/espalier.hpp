#pragma once
// Everything of the library.

#include "espalier/attention.hpp"
#include "espalier/block_pool.hpp"
#include "espalier/block_tables.hpp"
#include "espalier/branch_controller.hpp"
#include "espalier/device_order.hpp"
#include "espalier/error.hpp"
#include "espalier/kernels.hpp"
#include "espalier/kv_tree.hpp"
#include "espalier/plan.hpp"
#include "espalier/tree_arrays.hpp"
#include "espalier/types.hpp"
#include "espalier/validate.hpp"
#include "espalier/version.hpp"
