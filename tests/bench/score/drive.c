/* Measures a compiled model as a C program calls it.
 *
 *     drive KIND LIBRARY ROWS WIDTH ANSWERS [MODEL]
 *
 * KIND is how the library is called: m2cgen, tl2cgen, tl2cgen-float, lleaves or onnxruntime (which reads the file MODEL). ROWS
 * holds float64, row after row; what a library wants in another form is brought into it beforehand and not measured. Writes the
 * probabilities of the positive class as float64 to ANSWERS, and prints {"one_row": …, "batch": …}: nanoseconds a row, the
 * median over groups of rows called one by one, and the median over blocks of rows. Both are short enough to fit between two turns
 * of the scheduler.
 */
#define _POSIX_C_SOURCE 200809L

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Both as in the predictor's own measurement (lambda-inference/examples/measure.rs). */
enum { GROUP = 64, BLOCK = 256, PASSES = 5 };

static void *library;
static double *rows;
static size_t count, width;
/* Probability of the positive class of every row. */
static double *answers;

static void fail(const char *what, const char *why) {
    fprintf(stderr, "cannot %s: %s\n", what, why);
    exit(1);
}

static void *reserve(size_t bytes) {
    void *memory = calloc(bytes ? bytes : 1, 1);
    if (!memory) fail("reserve memory", "there is not enough");
    return memory;
}

static void find(void *function, const char *name) {
    /* POSIX wants functions found this way; ISO C knows no cast from a data pointer to a function's. */
    *(void **)function = dlsym(library, name);
    if (!*(void **)function) fail("find the entry point", dlerror());
}

static float *single_precision(void) {
    float *values = reserve(count * width * sizeof *values);
    for (size_t i = 0; i < count * width; i++) values[i] = (float)rows[i];
    return values;
}

/* ---- m2cgen: void score(double *input, double *output), one output for each class ---- */

static void (*m2cgen_score)(double *, double *);

static void m2cgen_open(const char *model) {
    (void)model;
    find(&m2cgen_score, "score");
}

static void m2cgen_predict(size_t first, size_t last) {
    double output[2];
    for (size_t row = first; row < last; row++) {
        m2cgen_score(rows + row * width, output);
        answers[row] = output[1];
    }
}

/* ---- tl2cgen: void predict(union Entry *row, int margin, T *result), in the width of the model ----
 *
 * The model may write into the row (quantised ones do), so each call gets a copy, as from tl2cgen's own predictor.
 */

union entry {
    int missing;
    double value;
};
union entry_float {
    int missing;
    float value;
};

static void (*tl2cgen_predict_double)(union entry *, int, double *);
static void (*tl2cgen_predict_float)(union entry_float *, int, float *);
static union entry *entries, *entry;
static union entry_float *entries_float, *entry_float;
/* Index of the positive class among a model's outputs: forests have two. */
static size_t tl2cgen_output;

static void tl2cgen_outputs(void) {
    void (*classes)(int32_t *);
    int32_t found = 0;
    find(&classes, "get_num_class");
    classes(&found);
    if (found != 1 && found != 2) fail("call the model", "it has neither one output nor two");
    tl2cgen_output = (size_t)found - 1;
}

static void tl2cgen_open(const char *model) {
    (void)model;
    tl2cgen_outputs();
    find(&tl2cgen_predict_double, "predict");
    entry = reserve(width * sizeof *entry);
    entries = reserve(count * width * sizeof *entries);
    for (size_t i = 0; i < count * width; i++) entries[i].value = rows[i];
}

static void tl2cgen_predict(size_t first, size_t last) {
    for (size_t row = first; row < last; row++) {
        double result[2] = {0, 0};
        memcpy(entry, entries + row * width, width * sizeof *entry);
        tl2cgen_predict_double(entry, 0, result);
        answers[row] = result[tl2cgen_output];
    }
}

static void tl2cgen_float_open(const char *model) {
    (void)model;
    tl2cgen_outputs();
    find(&tl2cgen_predict_float, "predict");
    entry_float = reserve(width * sizeof *entry_float);
    entries_float = reserve(count * width * sizeof *entries_float);
    for (size_t i = 0; i < count * width; i++) entries_float[i].value = (float)rows[i];
}

static void tl2cgen_float_predict(size_t first, size_t last) {
    for (size_t row = first; row < last; row++) {
        float result[2] = {0, 0};
        memcpy(entry_float, entries_float + row * width, width * sizeof *entry_float);
        tl2cgen_predict_float(entry_float, 0, result);
        answers[row] = (double)result[tl2cgen_output];
    }
}

/* ---- lleaves: void forest_root(double *rows, double *answers, int first, int last) ---- */

static void (*forest_root)(double *, double *, int, int);

static void lleaves_open(const char *model) {
    (void)model;
    find(&forest_root, "forest_root");
}

static void lleaves_predict(size_t first, size_t last) { forest_root(rows, answers, (int)first, (int)last); }

/* ---- onnxruntime, through its C interface ----
 *
 * The interface is one table of functions. Entries never move: a release only appends (the rule is stated in its header, which the
 * Python package leaves out). These are the places of those that are needed, and version 1 of the table has them all.
 */
enum {
    GET_ERROR_MESSAGE = 2,
    CREATE_ENV = 3,
    CREATE_SESSION = 7,
    RUN = 9,
    CREATE_SESSION_OPTIONS = 10,
    SET_INTRA_OP_NUM_THREADS = 24,
    SET_INTER_OP_NUM_THREADS = 25,
    CREATE_TENSOR_WITH_DATA = 49,
    CREATE_CPU_MEMORY_INFO = 69,
};
enum { ONNX_FLOAT = 1, ORT_ARENA_ALLOCATOR = 1, ORT_MEMORY_DEFAULT = 0, ORT_LOG_ERROR = 3, ORT_TABLE_VERSION = 1 };

struct ort_base {
    void *const *(*table)(uint32_t version);
    const char *(*version)(void);
};

typedef void *(*ort_run)(void *session, const void *options, const char *const *inputs, const void *const *values,
                         size_t input_count, const char *const *outputs, size_t output_count, void **results);

static void *const *ort;
static void *ort_session;
static ort_run ort_run_function;
/* Tensors over buffers that stay: one row, and a block. */
static float *ort_rows, *ort_block, *ort_answers;
static void *ort_row_tensor, *ort_block_tensor, *ort_answer_tensor, *ort_answers_tensor;

static void *ort_entry(int place) { return (void *)(uintptr_t)ort[place]; }

static void ort_check(void *status, const char *what) {
    if (!status) return;
    const char *(*message)(const void *);
    *(void **)&message = ort_entry(GET_ERROR_MESSAGE);
    fail(what, message(status));
}

static void *ort_tensor(const void *memory, float *data, int64_t height, int64_t tensor_width) {
    void *(*create)(const void *, void *, size_t, const int64_t *, size_t, int, void **);
    *(void **)&create = ort_entry(CREATE_TENSOR_WITH_DATA);
    int64_t shape[2] = {height, tensor_width};
    size_t bytes = (size_t)(height * tensor_width) * sizeof *data;
    void *tensor = NULL;
    ort_check(create(memory, data, bytes, shape, 2, ONNX_FLOAT, &tensor), "make a tensor");
    return tensor;
}

static void onnxruntime_open(const char *model) {
    if (!model) fail("open the model", "no file was given");
    const struct ort_base *(*base)(void);
    find(&base, "OrtGetApiBase");
    ort = base()->table(ORT_TABLE_VERSION);
    if (!ort) fail("call onnxruntime", "it does not offer version 1 of its C interface");
    void *(*create_env)(int, const char *, void **);
    void *(*create_options)(void **);
    void *(*set_threads)(void *, int);
    void *(*create_session)(const void *, const char *, const void *, void **);
    void *(*create_memory)(int, int, void **);
    *(void **)&create_env = ort_entry(CREATE_ENV);
    *(void **)&create_options = ort_entry(CREATE_SESSION_OPTIONS);
    *(void **)&create_session = ort_entry(CREATE_SESSION);
    *(void **)&create_memory = ort_entry(CREATE_CPU_MEMORY_INFO);
    *(void **)&ort_run_function = ort_entry(RUN);
    void *environment = NULL, *options = NULL, *memory = NULL;
    ort_check(create_env(ORT_LOG_ERROR, "drive", &environment), "start onnxruntime");
    ort_check(create_options(&options), "make session options");
    *(void **)&set_threads = ort_entry(SET_INTRA_OP_NUM_THREADS);
    ort_check(set_threads(options, 1), "ask for one thread");
    *(void **)&set_threads = ort_entry(SET_INTER_OP_NUM_THREADS);
    ort_check(set_threads(options, 1), "ask for one thread");
    ort_check(create_session(environment, model, options, &ort_session), "open the model");
    ort_check(create_memory(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &memory), "describe memory");
    ort_rows = single_precision();
    ort_block = reserve(BLOCK * width * sizeof *ort_block);
    ort_answers = reserve(BLOCK * 2 * sizeof *ort_answers);
    ort_row_tensor = ort_tensor(memory, ort_block, 1, (int64_t)width);
    ort_block_tensor = ort_tensor(memory, ort_block, BLOCK, (int64_t)width);
    ort_answer_tensor = ort_tensor(memory, ort_answers, 1, 2);
    ort_answers_tensor = ort_tensor(memory, ort_answers, BLOCK, 2);
}

static void onnxruntime_run(const void *input, void *output) {
    static const char *const inputs[] = {"rows"}, *const outputs[] = {"probabilities"};
    ort_check(ort_run_function(ort_session, NULL, inputs, &input, 1, outputs, 1, &output), "predict");
}

/* A whole block as one batch, anything shorter row by row. */
static void onnxruntime_predict(size_t first, size_t last) {
    size_t step = last - first == BLOCK ? BLOCK : 1;
    for (size_t row = first; row < last; row += step) {
        memcpy(ort_block, ort_rows + row * width, step * width * sizeof *ort_block);
        onnxruntime_run(step == 1 ? ort_row_tensor : ort_block_tensor, step == 1 ? ort_answer_tensor : ort_answers_tensor);
        for (size_t i = 0; i < step; i++) answers[row + i] = (double)ort_answers[2 * i + 1];
    }
}

/* ---- measuring ---- */

static const struct kind {
    const char *name;
    void (*open)(const char *model);
    /* Predicts the rows from `first` to before `last`. */
    void (*predict)(size_t first, size_t last);
} kinds[] = {
    {"m2cgen", m2cgen_open, m2cgen_predict},
    {"tl2cgen", tl2cgen_open, tl2cgen_predict},
    {"tl2cgen-float", tl2cgen_float_open, tl2cgen_float_predict},
    {"lleaves", lleaves_open, lleaves_predict},
    {"onnxruntime", onnxruntime_open, onnxruntime_predict},
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static double median(double *times, size_t length) {
    qsort(times, length, sizeof *times, ascending);
    return times[length / 2];
}

static double one_by_one(const struct kind *kind) {
    size_t groups = count / GROUP;
    double *times = reserve(groups * sizeof *times);
    for (size_t group = 0; group < groups; group++) {
        double begun = now();
        for (size_t row = group * GROUP; row < (group + 1) * GROUP; row++) kind->predict(row, row + 1);
        times[group] = (now() - begun) / GROUP;
    }
    return median(times, groups);
}

static double in_blocks(const struct kind *kind) {
    size_t blocks = count / BLOCK, timed = 0;
    double *times = reserve(PASSES * blocks * sizeof *times);
    for (int pass = 0; pass < PASSES; pass++) {
        for (size_t block = 0; block < blocks; block++) {
            double begun = now();
            kind->predict(block * BLOCK, (block + 1) * BLOCK);
            times[timed++] = (now() - begun) / BLOCK;
        }
    }
    return median(times, timed);
}

static void read_rows(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) fail("open the rows", path);
    long bytes = ftell(file);
    size_t row = width * sizeof *rows;
    if (bytes <= 0 || (size_t)bytes % row || (size_t)bytes / row < BLOCK) fail("read whole rows, and enough of them, in", path);
    rewind(file);
    count = (size_t)bytes / row;
    rows = reserve((size_t)bytes);
    answers = reserve(count * sizeof *answers);
    if (fread(rows, row, count, file) != count) fail("read", path);
    fclose(file);
}

int main(int argc, char **argv) {
    if (argc != 6 && argc != 7) fail("start", "usage: drive KIND LIBRARY ROWS WIDTH ANSWERS [MODEL]");
    const struct kind *kind = NULL;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (!strcmp(argv[1], kinds[i].name)) kind = &kinds[i];
    }
    if (!kind) fail("call a library of kind", argv[1]);
    width = strtoul(argv[4], NULL, 10);
    if (width == 0) fail("take as the width of a row", argv[4]);
    read_rows(argv[3]);
    library = dlopen(argv[2], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail("open the library", dlerror());
    kind->open(argc == 7 ? argv[6] : NULL);

    kind->predict(0, count);
    double one_row = one_by_one(kind), batch = in_blocks(kind);
    FILE *file = fopen(argv[5], "wb");
    if (!file || fwrite(answers, sizeof *answers, count, file) != count || fclose(file)) fail("write", argv[5]);
    printf("{\"one_row\": %.2f, \"batch\": %.3f}\n", one_row, batch);
    return 0;
}
