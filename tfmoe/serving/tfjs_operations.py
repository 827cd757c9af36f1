"""The operations that a model can have and that tfjs-converter 4.22 can run, by their names in
TensorFlow.

Images, strings, tables, sparse tensors and random numbers are left out: models have none.
"""

NAMES = """
Abs Acos Acosh Add AddN AddV2 All Any ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BatchMatMul
BatchMatMulV2 BiasAdd Bincount BitwiseAnd BroadcastArgs BroadcastTo Cast Ceil ClipByValue Concat
ConcatV2 Const Cos Cosh Cumprod Cumsum DenseBincount Div DivNoNan Einsum Elu EmptyTensorList
EnsureShape Equal Erf EuclideanNorm Exp ExpandDims Expm1 Fill Floor FloorDiv FloorMod Gather
GatherNd GatherV2 Greater GreaterEqual Identity IdentityN If IsFinite IsInf IsNan LeakyRelu Less
LessEqual LinSpace Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LowerBound MatMul
MatrixBandPart Max Maximum Mean Min Minimum Mod Mul Neg NoOp NotEqual OneHot Ones OnesLike Pack
Pad PadV2 Placeholder PlaceholderWithDefault Pow Prelu Prod Range Rank RealDiv Reciprocal Relu
Relu6 Reshape Reverse ReverseV2 Round Rsqrt ScatterNd Select SelectV2 Selu Shape ShapeN Sigmoid
Sign Sin Sinh Size Slice Snapshot Softmax Softplus Split SplitV Sqrt Square SquaredDifference
Squeeze StatelessIf StatelessWhile StopGradient StridedSlice Sub Sum Tan Tanh TensorListConcat
TensorListConcatV2 TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListScatter
TensorListScatterV2 TensorListSetItem TensorListSplit TensorListStack TensorScatterUpdate Tile
TopKV2 Transpose Unique UniqueV2 Unpack UpperBound Where While Zeros ZerosLike
"""
OPERATIONS = frozenset(NAMES.split())
