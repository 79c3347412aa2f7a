/* The runtime of shim.h: fibers that are the threads of blocks, and what Python asks (see modules.py). */

namespace emulated {

struct Failure {
    const char *what;
};

struct Fiber {
    ucontext_t start;
    jmp_buf where;
    char *stack;
    bool started;
};

enum State { FRESH, READY, SPINNING, AT_BARRIER, AT_WARP, DONE };
enum WarpOperation { SHUFFLE, BALLOT };

struct Thread {
    State state;
    Fiber *fiber;
    int block; /* among those that run together */
    uint3 index;
    unsigned polls;
    /* of the warp operation that it waits in */
    WarpOperation operation;
    unsigned mask, source;
    unsigned long long value, result;
};

struct Block {
    uint3 index;
    char *shared;
};

enum { STACK = 256 * 1024, GUARD = 4096, CANARY = 128, QUIET_ROUNDS = 1000, POLLS = 4096 };

typedef void (*Invoke)(void **);

Invoke invoke;
void **arguments;
size_t shared_size;
Thread *current;
Block *current_block;
jmp_buf scheduler;
const char *failure;
unsigned long long random_state;
std::vector<Fiber *> idle;

static void enter() {
    for (;;) {
        try {
            invoke(arguments);
        } catch (const Failure &caught) {
            failure = caught.what;
        } catch (...) {
            failure = "a C++ exception";
        }
        current->state = DONE;
        if (_setjmp(current->fiber->where) == 0) _longjmp(scheduler, 1);
    }
}

static Fiber *take_fiber() {
    if (!idle.empty()) {
        Fiber *fiber = idle.back();
        idle.pop_back();
        return fiber;
    }
    void *stack = mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw Failure{"no memory for the stack of a fiber"};
    mprotect(stack, GUARD, PROT_NONE);
    Fiber *fiber = new Fiber();
    fiber->stack = (char *)stack + GUARD;
    fiber->started = false;
    return fiber;
}

static __noinline__ void resume(Thread &thread, Block *blocks) {
    current = &thread;
    current_block = &blocks[thread.block];
    threadIdx = thread.index;
    blockIdx = current_block->index;
    if (!thread.fiber) thread.fiber = take_fiber();
    Fiber *fiber = thread.fiber;
    if (_setjmp(scheduler) != 0) return;
    if (fiber->started) _longjmp(fiber->where, 1);
    fiber->started = true;
    getcontext(&fiber->start);
    fiber->start.uc_stack.ss_sp = fiber->stack;
    fiber->start.uc_stack.ss_size = STACK;
    fiber->start.uc_link = nullptr;
    makecontext(&fiber->start, enter, 0);
    setcontext(&fiber->start);
}

static __noinline__ void wait(State state) {
    current->state = state;
    if (_setjmp(current->fiber->where) == 0) _longjmp(scheduler, 1);
}

static inline void *dynamic_shared() { return current_block->shared; }

/* A loop that waits for memory without __nanosleep() gets here through its loads and atomics. */
static inline void poll() {
    if (++current->polls % POLLS == 0) wait(SPINNING);
}

static inline unsigned lane_of(const Thread &thread) {
    return (thread.index.x + blockDim.x * (thread.index.y + blockDim.y * thread.index.z)) % 32;
}

static unsigned long long warp(WarpOperation operation, unsigned mask, unsigned long long value,
                               unsigned source) {
    if (!(mask >> lane_of(*current) & 1)) throw Failure{"a lane is not in the mask it gives"};
    current->operation = operation;
    current->mask = mask;
    current->value = value;
    current->source = source;
    wait(AT_WARP);
    return current->result;
}

/* Finishes the operations of a warp whose lanes have all come; says whether there was one. */
static bool open_warp(Thread *lanes, int count) {
    unsigned live = 0, done = 0;
    for (int i = 0; i < count; i++) live |= (unsigned)(lanes[i].state != DONE) << i;
    for (int i = 0; i < count; i++) {
        if (lanes[i].state != AT_WARP || done >> i & 1) continue;
        unsigned group = lanes[i].mask & live, here = 0, ballot = 0;
        for (int j = 0; j < count; j++) {
            bool same = lanes[j].state == AT_WARP && lanes[j].mask == lanes[i].mask &&
                        lanes[j].operation == lanes[i].operation;
            here |= (unsigned)(same && (group >> j & 1)) << j;
            ballot |= (unsigned)(same && lanes[j].value != 0) << j;
        }
        if (here != group) continue;
        for (int j = 0; j < count; j++) {
            if (!(group >> j & 1)) continue;
            unsigned source = lanes[j].source;
            if (lanes[j].operation == BALLOT) {
                lanes[j].result = ballot;
            } else if (source < 32 && (group >> source & 1)) {
                lanes[j].result = lanes[source].value;
            } else {
                lanes[j].result = 0x7ff8dead7fc0deadull; /* undefined in CUDA; a NaN here */
            }
        }
        done |= group;
    }
    for (int i = 0; i < count; i++) {
        if (done >> i & 1) lanes[i].state = READY;
    }
    return done != 0;
}

/* Opens the barrier of a block whose threads have all come; says whether it did. */
static bool open_block(Thread *threads, int count) {
    int waiting = 0, ended = 0;
    for (int i = 0; i < count; i++) {
        waiting += threads[i].state == AT_BARRIER;
        ended += threads[i].state == DONE;
    }
    if (waiting && ended) throw Failure{"__syncthreads() not reached by all threads of the block"};
    if (waiting != count) return false;
    for (int i = 0; i < count; i++) threads[i].state = READY;
    return true;
}

static unsigned long long draw() {
    unsigned long long z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

enum Order { ASCENDING, DESCENDING, SHUFFLED };

static void arrange(std::vector<int> &order, Order how) {
    int count = (int)order.size();
    for (int i = 0; i < count; i++) order[i] = how == DESCENDING ? count - 1 - i : i;
    if (how != SHUFFLED) return;
    for (int i = count - 1; i > 0; i--) std::swap(order[i], order[draw() % (i + 1)]);
}

/* Gives every thread of a block that can run one turn, then opens barriers; false if nothing came of it. */
static bool run_round(std::vector<Block> &blocks, Thread *threads, std::vector<int> &order, Order how,
                      int *live) {
    const int size = (int)order.size();
    bool moved = false;
    arrange(order, how);
    for (int i : order) {
        Thread &thread = threads[i];
        State before = thread.state;
        if (before != FRESH && before != READY && before != SPINNING) continue;
        thread.state = READY;
        resume(thread, blocks.data());
        if (failure) throw Failure{failure};
        moved |= before != SPINNING || thread.state != SPINNING;
        if (thread.state != DONE) continue;
        idle.push_back(thread.fiber);
        thread.fiber = nullptr;
        --*live;
    }
    for (int lane = 0; lane < size; lane += 32)
        moved |= open_warp(&threads[lane], size - lane < 32 ? size - lane : 32);
    return open_block(threads, size) || moved;
}

/* Runs blocks that are all live at once. Each runs on until it waits for others: so a block that does not
 * wait where it should is far ahead of them. */
static void run_together(std::vector<Block> &blocks, std::vector<Thread> &threads, Order how) {
    int size = blockDim.x * blockDim.y * blockDim.z, total = size * (int)blocks.size();
    threads.assign(total, Thread());
    for (int i = 0; i < total; i++) {
        unsigned t = i % size;
        threads[i].block = i / size;
        threads[i].index = {t % blockDim.x, t / blockDim.x % blockDim.y,
                            t / (blockDim.x * blockDim.y)};
    }
    std::vector<int> order(size), turns(blocks.size());
    int live = total, quiet = 0;
    while (live) {
        bool moved = false;
        arrange(turns, how);
        for (int block : turns)
            while (run_round(blocks, &threads[block * size], order, how, &live)) moved = true;
        quiet = moved ? 0 : quiet + 1;
        if (quiet <= QUIET_ROUNDS) continue;
        int states[DONE + 1] = {};
        for (const Thread &thread : threads) states[thread.state]++;
        static char text[200];
        snprintf(text, sizeof text,
                 "deadlock: of the threads that run together %d wait in __syncthreads(), %d in a warp "
                 "operation, %d spin, %d have ended",
                 states[AT_BARRIER], states[AT_WARP], states[SPINNING], states[DONE]);
        throw Failure{text};
    }
}

/* Runs blocks with shared memory of their own, filled with NaN (ints: -1), and looks at what is behind it. */
static void run_blocks(std::vector<Block> &blocks, std::vector<Thread> &threads,
                       std::vector<char> &memory, Order how) {
    size_t room = (shared_size + CANARY + 127) / 128 * 128;
    memory.assign(blocks.size() * room + 128, (char)0xff);
    char *start = memory.data() + (128 - (uintptr_t)memory.data() % 128);
    for (size_t i = 0; i < blocks.size(); i++) {
        blocks[i].shared = start + i * room;
        memset(blocks[i].shared + shared_size, 0x5a, room - shared_size);
    }
    run_together(blocks, threads, how);
    for (const Block &block : blocks) {
        for (size_t i = shared_size; i < room; i++) {
            if (block.shared[i] != 0x5a) throw Failure{"wrote past the end of shared memory"};
        }
    }
}

static void run_grid(std::vector<Thread> &threads, bool cooperative, Order how) {
    std::vector<int> order((size_t)gridDim.x * gridDim.y * gridDim.z);
    arrange(order, cooperative ? ASCENDING : how); /* together, the threads are arranged, not the blocks */
    std::vector<Block> blocks;
    std::vector<char> memory;
    for (int i : order) {
        unsigned b = i;
        blocks.push_back(
            {{b % gridDim.x, b / gridDim.x % gridDim.y, b / (gridDim.x * gridDim.y)}, nullptr});
        if (cooperative) continue;
        run_blocks(blocks, threads, memory, how);
        blocks.clear();
    }
    if (cooperative) run_blocks(blocks, threads, memory, how);
}

/* ---- what Python asks (see modules.py) ---- */

/* kind is 'p' of a pointer, 'f' of a floating number, 'i' of an integer, 'b' of a bool, 'o' of others;
 * target and target_size say the same of what a pointer points to. */
struct Parameter {
    unsigned long long size, target_size;
    char kind, target;
};

template <typename T>
static constexpr char kind_of() {
    if (std::is_pointer<T>::value) return 'p';
    if (std::is_floating_point<T>::value) return 'f';
    if (std::is_same<typename std::remove_cv<T>::type, bool>::value) return 'b';
    if (std::is_integral<T>::value || std::is_enum<T>::value) return 'i';
    return 'o';
}

template <typename T>
static Parameter parameter_of() {
    typedef typename std::remove_pointer<T>::type Target;
    if constexpr (!std::is_pointer<T>::value || std::is_void<Target>::value) {
        return {sizeof(T), 0, kind_of<T>(), 'o'};
    } else {
        return {sizeof(T), sizeof(Target), 'p', kind_of<Target>()};
    }
}

template <auto function>
struct Kernel;
template <typename... P, void (*function)(P...)>
struct Kernel<function> {
    template <size_t... I>
    static void call(void **args, std::index_sequence<I...>) {
        (void)args;
        function(*(P *)args[I]...);
    }
    static void invoke(void **args) { call(args, std::index_sequence_for<P...>()); }
    static int describe(Parameter *out, int room) {
        const Parameter all[] = {parameter_of<P>()..., Parameter()};
        for (int i = 0; i < (int)sizeof...(P) && i < room; i++) out[i] = all[i];
        return sizeof...(P);
    }
};

struct Entry {
    void (*invoke)(void **);
    int (*describe)(Parameter *, int);
};

} /* namespace emulated */

extern const emulated::Entry emulated_kernels[]; /* appended to the source */

#define EMULATED_EXPORT extern "C" __attribute__((visibility("default")))

EMULATED_EXPORT int emulated_describe(int kernel, emulated::Parameter *out, int room) {
    return emulated_kernels[kernel].describe(out, room);
}

EMULATED_EXPORT int emulated_launch(int kernel, const unsigned *grid, const unsigned *block,
                                    size_t shared, void **args, int cooperative, int order,
                                    unsigned long long seed, char *message, size_t room) {
    using namespace emulated;
    invoke = emulated_kernels[kernel].invoke;
    arguments = args;
    shared_size = shared;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    failure = nullptr;
    random_state = seed;
    std::vector<Thread> threads;
    try {
        run_grid(threads, cooperative, (Order)order);
    } catch (const Failure &caught) {
        snprintf(message, room, "%s", caught.what);
        for (Thread &thread : threads) {
            if (!thread.fiber) continue;
            thread.fiber->started = false; /* leaves what was on its stack */
            idle.push_back(thread.fiber);
        }
        return 1;
    }
    return 0;
}

/* What g++ -fsanitize calls; all of them are given where in the source it is first. */

namespace emulated {
struct Place {
    const char *file;
    unsigned line, column;
};
[[noreturn]] static __noinline__ void complain(const Place *place, const char *what) {
    static char text[300];
    snprintf(text, sizeof text, "%s at %s:%u", what, place->file, place->line);
    failure = text;
    current->state = DONE;
    _longjmp(scheduler, 1);
}
} /* namespace emulated */

#define EMULATED_CHECK extern "C" __attribute__((used)) void
EMULATED_CHECK __ubsan_handle_type_mismatch_v1(const emulated::Place *place, uintptr_t pointer) {
    emulated::complain(place, pointer < 4096 ? "a null pointer is used" : "an address is not aligned");
}
EMULATED_CHECK __ubsan_handle_out_of_bounds(const emulated::Place *place, uintptr_t) {
    emulated::complain(place, "an index is outside of an array");
}
EMULATED_CHECK __ubsan_handle_divrem_overflow(const emulated::Place *place, uintptr_t, uintptr_t) {
    emulated::complain(place, "a division by zero");
}
#undef EMULATED_CHECK
