"""A type of arrays with DLPack's exchange table, as PyTorch 2.10 and later have it, made by hand."""

import ctypes

import numpy as np


class _Tensor(ctypes.Structure):  # DLTensor
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


_Lend = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_Tensor))


class _Table(ctypes.Structure):  # DLPackExchangeAPI
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("unused", ctypes.c_void_p * 3),
        ("tensor_from_object", _Lend),
        ("current_work_stream", ctypes.c_void_p),
    ]


@_Lend
def _lend(lent, tensor):
    tensor[0] = lent.tensor
    lent.times += 1
    return 0


def _capsule(table):
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return new(ctypes.addressof(table), b"dlpack_exchange_api", None)


_table = _Table(major=1, minor=3, tensor_from_object=_lend)
_newer = _Table(major=2, minor=0, previous=ctypes.addressof(_table))  # a caller of version 1 goes on to the older one


class Lent:
    """Lends a NumPy array, whose data pointer is `skipped` bytes too low, and counts how often."""

    __dlpack_c_exchange_api__ = _capsule(_newer)

    def __init__(self, array, skipped=0):
        self.array, self.times = array, 0
        integers = ctypes.c_int64 * array.ndim
        self.shape = integers(*array.shape)
        self.strides = integers(*(stride // array.itemsize for stride in array.strides))
        code = {"i": 0, "u": 1, "f": 2}[array.dtype.kind]
        self.tensor = _Tensor(
            array.ctypes.data - skipped, 1, 0, array.ndim, code, 8 * array.itemsize, 1, self.shape, self.strides, skipped
        )


class Stubborn(np.ndarray):
    """Has a table that fails: the array is then asked by DLPack's method or the buffer protocol."""


@_Lend
def _refuse(lent, tensor):
    return -1


_refusing = _Table(major=1, minor=3, tensor_from_object=_refuse)
Stubborn.__dlpack_c_exchange_api__ = _capsule(_refusing)
