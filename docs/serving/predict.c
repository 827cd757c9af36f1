/* Calls a signature of a SavedModel through the C API of TensorFlow, without Python.

   predict [--library FILE]... MODEL SIGNATURE                 prints its inputs and outputs
   predict [--library FILE]... MODEL SIGNATURE NAME=VALUE...   prints its outputs as one JSON object

   Each NAME=VALUE is one row of the input NAME: a string, or numbers separated by commas.
   FILE is a library of operations that TensorFlow lacks, such as those of tensorflow-text.

   The guide "Export and serve" has the command that compiles this file. */

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"
#include "tensorflow/c/tf_tstring.h"

enum { MAX_TENSORS = 64, MAX_RANK = 8 };

static void fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("predict: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

static void check(const TF_Status *status, const char *subject) {
  if (TF_GetCode(status) != TF_OK) fail("%s: %s", subject, TF_Message(status));
}

/* The signatures are in the MetaGraphDef, a protocol buffer. Its wire format is simple enough to
   read without a library: a message is a list of fields, each a number, a type and a content. */

typedef struct {
  const uint8_t *at, *end;
} Bytes;

typedef struct {
  uint32_t number;
  uint64_t integer; /* of a field that is an integer */
  Bytes content;    /* of a field that is a string or a message */
} Field;

static uint64_t read_varint(Bytes *bytes) {
  uint64_t value = 0;
  for (int shift = 0; bytes->at < bytes->end && shift < 64; shift += 7) {
    uint8_t byte = *bytes->at++;
    value |= (uint64_t)(byte & 127) << shift;
    if (byte < 128) return value;
  }
  fail("the MetaGraphDef is damaged");
  return 0;
}

/* Reads the next field of a message; 0 at its end. */
static int next_field(Bytes *message, Field *field) {
  if (message->at == message->end) return 0;
  uint64_t tag = read_varint(message), size;
  *field = (Field){.number = (uint32_t)(tag >> 3)};
  switch (tag & 7) {
    case 0:
      field->integer = read_varint(message);
      return 1;
    case 1:
    case 5:
      size = (tag & 7) == 1 ? 8 : 4;
      break;
    case 2:
      size = read_varint(message);
      break;
    default:
      size = UINT64_MAX;
  }
  if (size > (uint64_t)(message->end - message->at)) fail("the MetaGraphDef is damaged");
  field->content = (Bytes){message->at, message->at + size};
  message->at += size;
  return 1;
}

static char *text_of(Bytes bytes) {
  size_t size = (size_t)(bytes.end - bytes.at);
  char *text = calloc(size + 1, 1);
  if (size) memcpy(text, bytes.at, size);
  return text;
}

/* The key and the value of an entry of a map. */
static char *read_entry(Bytes entry, Bytes *value) {
  char *key = calloc(1, 1);
  *value = (Bytes){NULL, NULL};
  for (Field field; next_field(&entry, &field);) {
    if (field.number == 1) free(key), key = text_of(field.content);
    if (field.number == 2) *value = field.content;
  }
  return key;
}

typedef struct {
  char *name;
  TF_Output output; /* the tensor of the graph */
  TF_DataType type;
  int rank; /* -1 if unknown */
  int64_t sizes[MAX_RANK]; /* -1 if unknown */
} TensorInfo;

typedef struct {
  TensorInfo inputs[MAX_TENSORS], outputs[MAX_TENSORS];
  int num_inputs, num_outputs;
} Signature;

static void read_shape(Bytes shape, TensorInfo *info) {
  for (Field field; next_field(&shape, &field);) {
    if (field.number == 3 && field.integer) info->rank = -1;
    if (field.number != 2) continue;
    if (info->rank == MAX_RANK) fail("%s has more than %d axes", info->name, MAX_RANK);
    int64_t size = 0; /* a message leaves out a field that is 0 */
    for (Field part; next_field(&field.content, &part);)
      if (part.number == 1) size = (int64_t)part.integer;
    info->sizes[info->rank++] = size;
  }
}

static void read_tensor_info(Bytes entry, TF_Graph *graph, TensorInfo *info) {
  Bytes message;
  *info = (TensorInfo){.name = read_entry(entry, &message)};
  for (Field field; next_field(&message, &field);) {
    if (field.number == 1) {
      char *tensor = text_of(field.content), *colon = strrchr(tensor, ':');
      if (colon) *colon = 0, info->output.index = atoi(colon + 1);
      info->output.oper = TF_GraphOperationByName(graph, tensor);
      free(tensor);
    }
    if (field.number == 2) info->type = (TF_DataType)field.integer;
    if (field.number == 3) read_shape(field.content, info);
  }
  if (!info->output.oper) fail("%s is not a dense tensor of the graph", info->name);
}

/* Finds a signature; the message for none names all but TensorFlow's own. */
static void read_signature(Bytes meta_graph, const char *name, TF_Graph *graph, Signature *found) {
  char known[1000] = "";
  for (Field field; next_field(&meta_graph, &field);) {
    if (field.number != 5) continue;
    Bytes signature;
    char *key = read_entry(field.content, &signature);
    int is_it = strcmp(key, name) == 0;
    if (strncmp(key, "__", 2) != 0)
      snprintf(known + strlen(known), sizeof known - strlen(known), " %s", key);
    free(key);
    if (!is_it) continue;
    for (Field part; next_field(&signature, &part);) {
      if (part.number != 1 && part.number != 2) continue;
      int *count = part.number == 1 ? &found->num_inputs : &found->num_outputs;
      TensorInfo *infos = part.number == 1 ? found->inputs : found->outputs;
      if (*count == MAX_TENSORS) fail("%s has more than %d tensors", name, MAX_TENSORS);
      read_tensor_info(part.content, graph, &infos[(*count)++]);
    }
    return;
  }
  fail("there is no signature '%s'; the model has:%s", name, known);
}

static const char *type_name(TF_DataType type) {
  switch (type) {
    case TF_FLOAT:
      return "float32";
    case TF_INT32:
      return "int32";
    case TF_INT64:
      return "int64";
    case TF_BOOL:
      return "bool";
    case TF_STRING:
      return "string";
    default:
      return "of a type that predict does not know";
  }
}

static void describe(const char *kind, const TensorInfo *infos, int count) {
  for (int i = 0; i < count; i++) {
    printf("%s %s %s [", kind, infos[i].name, type_name(infos[i].type));
    if (infos[i].rank < 0) printf("...");
    for (int axis = 0; axis < infos[i].rank; axis++) {
      if (axis) printf(", ");
      if (infos[i].sizes[axis] < 0) printf("?");
      else printf("%lld", (long long)infos[i].sizes[axis]);
    }
    printf("]\n");
  }
}

/* The shape of an input: the number of rows, then the sizes of the signature, of which one may be
   unknown. */
static void input_shape(const TensorInfo *info, int64_t rows, int64_t row_size, int64_t *shape) {
  int64_t product = 1;
  int unknown = 0;
  if (info->rank < 1) fail("%s has no axis for rows", info->name);
  shape[0] = rows;
  for (int axis = 1; axis < info->rank; axis++) {
    shape[axis] = info->sizes[axis];
    if (shape[axis] >= 0) product *= shape[axis];
    else if (unknown) fail("%s has several axes of unknown size", info->name);
    else unknown = axis;
  }
  if (unknown) shape[unknown] = product ? row_size / product : 0, product *= shape[unknown];
  if (product != row_size)
    fail("a row of %s needs %lld values, got %lld", info->name, (long long)product,
         (long long)row_size);
  if (info->sizes[0] >= 0 && info->sizes[0] != rows)
    fail("%s needs %lld rows, got %lld", info->name, (long long)info->sizes[0], (long long)rows);
}

static int64_t values_of_row(const TensorInfo *info, const char *row) {
  int64_t count = *row || info->type == TF_STRING;
  for (; *row && info->type != TF_STRING; row++) count += *row == ',';
  return count;
}

static void set_value(TF_Tensor *tensor, int64_t index, const char *text, char **end) {
  void *data = TF_TensorData(tensor);
  long long integer;
  switch (TF_TensorType(tensor)) {
    case TF_FLOAT:
      ((float *)data)[index] = strtof(text, end);
      break;
    case TF_INT32:
      integer = strtoll(text, end, 10);
      ((int32_t *)data)[index] = (int32_t)integer;
      if (integer != (int32_t)integer) *end = (char *)text;
      break;
    case TF_INT64:
      ((int64_t *)data)[index] = strtoll(text, end, 10);
      break;
    default:
      TF_StringInit((TF_TString *)data + index);
      TF_StringCopy((TF_TString *)data + index, text, strlen(text));
      *end = (char *)text + strlen(text);
  }
}

/* The tensor of an input, from all arguments NAME=VALUE of its name. */
static TF_Tensor *input_tensor(const TensorInfo *info, char **arguments, int count) {
  size_t length = strlen(info->name);
  const char **rows = calloc((size_t)count, sizeof *rows);
  int64_t num_rows = 0, shape[MAX_RANK], index = 0;
  for (int i = 0; i < count; i++)
    if (strncmp(arguments[i], info->name, length) == 0 && arguments[i][length] == '=')
      rows[num_rows++] = arguments[i] + length + 1;
  if (!num_rows) fail("the input %s is missing: %s=VALUE", info->name, info->name);
  if (info->type != TF_FLOAT && info->type != TF_INT32 && info->type != TF_INT64 &&
      info->type != TF_STRING)
    fail("%s is %s", info->name, type_name(info->type));
  int64_t row_size = values_of_row(info, rows[0]);
  input_shape(info, num_rows, row_size, shape);
  size_t bytes = (size_t)(num_rows * row_size) * TF_DataTypeSize(info->type);
  if (info->type == TF_STRING) bytes = (size_t)num_rows * sizeof(TF_TString);
  TF_Tensor *tensor = TF_AllocateTensor(info->type, shape, info->rank, bytes);
  for (int64_t row = 0; row < num_rows; row++) {
    if (values_of_row(info, rows[row]) != row_size)
      fail("all rows of %s need %lld values, as the first has", info->name, (long long)row_size);
    const char *text = rows[row];
    for (int64_t column = 0; column < row_size; column++) {
      char *end;
      set_value(tensor, index++, text, &end);
      if ((end == text && info->type != TF_STRING) || (*end && *end != ','))
        fail("a value of %s is not %s: '%s'", info->name, type_name(info->type), text);
      text = end + 1;
    }
  }
  free(rows);
  return tensor;
}

static void delete_tensor(TF_Tensor *tensor) {
  if (TF_TensorType(tensor) == TF_STRING)
    for (int64_t i = 0; i < TF_TensorElementCount(tensor); i++)
      TF_StringDealloc((TF_TString *)TF_TensorData(tensor) + i);
  TF_DeleteTensor(tensor);
}

static void print_string(const TF_TString *string) {
  const char *text = TF_StringGetDataPointer(string);
  putchar('"');
  for (size_t i = 0; i < TF_StringGetSize(string); i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte < 32) printf("\\u%04x", byte);
    else if (byte == '"' || byte == '\\') printf("\\%c", byte);
    else putchar(byte);
  }
  putchar('"');
}

static void print_value(const TF_Tensor *tensor, int64_t index) {
  const void *data = TF_TensorData(tensor);
  TF_DataType type = TF_TensorType(tensor);
  if (type == TF_STRING) print_string((const TF_TString *)data + index);
  else if (type == TF_INT32) printf("%ld", (long)((const int32_t *)data)[index]);
  else if (type == TF_INT64) printf("%lld", (long long)((const int64_t *)data)[index]);
  else if (type == TF_BOOL) printf(((const unsigned char *)data)[index] ? "true" : "false");
  else if (type != TF_FLOAT) fail("an output is %s: %d", type_name(type), type);
  else {
    float value = ((const float *)data)[index];
    if (isnan(value)) printf("NaN");
    else if (isinf(value)) printf(value < 0 ? "-Infinity" : "Infinity");
    else printf("%.9g", value);
  }
}

/* Prints a tensor as nested lists. */
static void print_axis(const TF_Tensor *tensor, int axis, int64_t *index) {
  if (axis == TF_NumDims(tensor)) {
    print_value(tensor, (*index)++);
    return;
  }
  putchar('[');
  for (int64_t i = 0; i < TF_Dim(tensor, axis); i++) {
    if (i) printf(", ");
    print_axis(tensor, axis + 1, index);
  }
  putchar(']');
}

/* Fails for an argument that is not NAME=VALUE of an input. */
static void check_names(const Signature *signature, char **arguments, int count) {
  for (int i = 0; i < count; i++) {
    size_t length = strcspn(arguments[i], "=");
    int known = 0;
    for (int k = 0; k < signature->num_inputs && arguments[i][length]; k++)
      known |= strlen(signature->inputs[k].name) == length &&
               strncmp(signature->inputs[k].name, arguments[i], length) == 0;
    if (!known) fail("'%s' is not NAME=VALUE with the name of an input", arguments[i]);
  }
}

static void call(TF_Session *session, const Signature *signature, char **arguments, int count) {
  TF_Output inputs[MAX_TENSORS], outputs[MAX_TENSORS];
  TF_Tensor *values[MAX_TENSORS], *results[MAX_TENSORS];
  TF_Status *status = TF_NewStatus();
  check_names(signature, arguments, count);
  for (int i = 0; i < signature->num_inputs; i++) {
    inputs[i] = signature->inputs[i].output;
    values[i] = input_tensor(&signature->inputs[i], arguments, count);
  }
  for (int i = 0; i < signature->num_outputs; i++) outputs[i] = signature->outputs[i].output;
  TF_SessionRun(session, NULL, inputs, values, signature->num_inputs, outputs, results,
                signature->num_outputs, NULL, 0, NULL, status);
  check(status, "the model");
  for (int i = 0; i < signature->num_outputs; i++) {
    int64_t index = 0;
    printf("%s\"%s\": ", i ? ",\n " : "{", signature->outputs[i].name);
    print_axis(results[i], 0, &index);
    TF_DeleteTensor(results[i]);
  }
  printf("}\n");
  for (int i = 0; i < signature->num_inputs; i++) delete_tensor(values[i]);
  TF_DeleteStatus(status);
}

int main(int argc, char **argv) {
  TF_Status *status = TF_NewStatus();
  int first = 1;
  for (; first + 1 < argc && strcmp(argv[first], "--library") == 0; first += 2) {
    TF_LoadLibrary(argv[first + 1], status);
    check(status, argv[first + 1]);
  }
  if (argc - first < 2) fail("usage: predict [--library FILE]... MODEL SIGNATURE [NAME=VALUE]...");

  TF_Graph *graph = TF_NewGraph();
  TF_Buffer *meta_graph = TF_NewBuffer();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[first], tags, 1, graph, meta_graph, status);
  check(status, argv[first]);

  static Signature signature;
  const uint8_t *start = meta_graph->data;
  read_signature((Bytes){start, start + meta_graph->length}, argv[first + 1], graph, &signature);
  if (argc - first == 2) {
    describe("input", signature.inputs, signature.num_inputs);
    describe("output", signature.outputs, signature.num_outputs);
  } else {
    call(session, &signature, argv + first + 2, argc - first - 2);
  }

  TF_DeleteSession(session, status);
  check(status, "the session");
  TF_DeleteSessionOptions(options);
  TF_DeleteBuffer(meta_graph);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
