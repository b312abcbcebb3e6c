"""What a pickle may import and nothing happens: containers, numbers, arrays, tensors and records of them.

Exact names only: a module's other names, and dotted names that lead out of it (`torch.serialization`, `os.system`),
are not covered. Functions stand here where they do nothing but put together what they are given, and call nothing
that is not itself a global of the pickle.
"""

from __future__ import annotations

_NAMES: dict[str, str] = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "__builtin__": "bool bytearray bytes complex dict float frozenset int list long object set slice str tuple unicode"
    " xrange",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "_reconstructor __newobj__ __newobj_ex__",
    "copy_reg": "_reconstructor __newobj__ __newobj_ex__",
    "_codecs": "encode",
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "uuid": "UUID SafeUUID",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "torch": "BFloat16Storage BFloat16Tensor BoolStorage BoolTensor ByteStorage ByteTensor CharStorage CharTensor"
    " ComplexDoubleStorage ComplexFloatStorage DoubleStorage DoubleTensor FloatStorage FloatTensor HalfStorage"
    " HalfTensor IntStorage IntTensor LongStorage LongTensor QInt32Storage QInt8Storage QUInt2x4Storage"
    " QUInt4x2Storage QUInt8Storage ShortStorage ShortTensor Size Tensor UntypedStorage bfloat16 bits16 bits1x8"
    " bits2x4 bits4x2 bits8 bool cdouble cfloat chalf channels_last channels_last_3d complex128 complex32 complex64"
    " contiguous_format device double dtype float float16 float32 float64 float8_e4m3fn float8_e4m3fnuz float8_e5m2"
    " float8_e5m2fnuz float8_e8m0fnu half int int16 int32 int64 int8 layout long per_channel_affine"
    " per_tensor_affine preserve_format qint32 qint8 quint2x4 quint4x2 quint8 short sparse_bsc sparse_bsr sparse_coo"
    " sparse_csc sparse_csr strided uint16 uint32 uint64 uint8",
    "torch.cuda": "BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage"
    " DoubleStorage FloatStorage HalfStorage IntStorage LongStorage ShortStorage",
    "torch._utils": "_rebuild_device_tensor_from_numpy _rebuild_meta_tensor_no_storage _rebuild_nested_tensor"
    " _rebuild_parameter _rebuild_parameter_with_state _rebuild_qtensor _rebuild_sparse_csr_tensor"
    " _rebuild_sparse_tensor _rebuild_tensor _rebuild_tensor_v2 _rebuild_tensor_v3 _rebuild_wrapper_subclass",
    "torch._tensor": "_rebuild_from_type_v2 _rebuild_from_type Tensor",
    "torch.nn.parameter": "Buffer Parameter",
    "torch.serialization": "_get_layout",
    # Looked into where it is called: what it loads is a checkpoint of its own.
    "torch.storage": "TypedStorage UntypedStorage _load_from_bytes",
    "torch.distributed.checkpoint.metadata": "BytesStorageMetadata ChunkStorageMetadata Metadata MetadataIndex"
    " StorageMeta TensorProperties TensorStorageMetadata _MEM_FORMAT_ENCODING",
    "torch.distributed.checkpoint.filesystem": "_StorageInfo _StoragePrefix",
    "numpy": "bool bool_ bytes_ clongdouble complex128 complex64 datetime64 dtype float16 float32 float64 int16 int32"
    " int64 int8 intc intp longdouble longlong ndarray object_ str_ timedelta64 uint16 uint32 uint64 uint8 uintc uintp"
    " ulonglong void",
    "numpy.dtypes": "BoolDType ByteDType BytesDType Complex128DType Complex64DType DateTime64DType Float16DType"
    " Float32DType Float64DType Int16DType Int32DType Int64DType Int8DType ObjectDType StrDType TimeDelta64DType"
    " UInt16DType UInt32DType UInt64DType UInt8DType VoidDType",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.numeric": "_frombuffer",
    "numpy._core.numeric": "_frombuffer",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64 PCG64DXSM",
    "numpy.random._philox": "Philox",
    "numpy.random._sfc64": "SFC64",
    "joblib.numpy_pickle": "NumpyArrayWrapper",
    # What trainers keep beside the weights: settings and names, as records and enumerations.
    "transformers.training_args": "OptimizerNames TrainingArguments",
    "transformers.trainer_utils": "HubStrategy IntervalStrategy SaveStrategy SchedulerType",
    "transformers.trainer_pt_utils": "AcceleratorConfig",
    "accelerate.utils.dataclasses": "DistributedType",
    "lightning.fabric.utilities.data": "AttributeDict",
    "lightning_fabric.utilities.data": "AttributeDict",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
}

HARMLESS = frozenset((module, name) for module, names in _NAMES.items() for name in names.split())
"""Module and name of each."""
