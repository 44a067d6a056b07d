// What a processor does inside a guest: one case for each argument, between lines that say when it begins and ends.
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static uint64_t random_state = 88172645463325252ull;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

static uint64_t sieve(void) {
    enum { LIMIT = 2000000, ROUNDS = 12 };
    static uint8_t composite[LIMIT];
    uint64_t count = 0;
    for (int round = 0; round < ROUNDS; round++) {
        memset(composite, 0, LIMIT);
        for (int i = 2; i < LIMIT; i++) {
            if (composite[i]) continue;
            count++;
            for (long j = (long)i * i; j < LIMIT; j += i) composite[j] = 1;
        }
    }
    return count;
}

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint64_t sha256(void) {
    enum { BLOCKS = 160000 };
    uint32_t k[64], h[8] = {1, 2, 3, 4, 5, 6, 7, 8}, w[64];
    for (int i = 0; i < 64; i++) k[i] = (uint32_t)next_random();
    for (int block = 0; block < BLOCKS; block++) {
        for (int i = 0; i < 16; i++) w[i] = h[i & 7] + block * 2654435761u + i;
        for (int i = 16; i < 64; i++) {
            uint32_t a = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
            uint32_t b = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
            w[i] = w[i - 16] + a + w[i - 7] + b;
        }
        uint32_t s[8];
        memcpy(s, h, sizeof s);
        for (int i = 0; i < 64; i++) {
            uint32_t e = rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25);
            uint32_t t = s[7] + e + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
            uint32_t a = rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22);
            uint32_t u = a + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += t;
            s[0] = t + u;
        }
        for (int i = 0; i < 8; i++) h[i] += s[i];
    }
    return (uint64_t)h[0] << 32 | h[1];
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sort(void) {
    enum { COUNT = 400000, ROUNDS = 3 };
    static uint64_t values[COUNT];
    uint64_t sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < COUNT; i++) values[i] = next_random();
        qsort(values, COUNT, sizeof *values, ascending);
        sum ^= values[COUNT / 2];
    }
    return sum;
}

// A small greedy LZ77, for the byte handling and unpredictable branches of compressors.
static uint64_t compress(void) {
    enum { SIZE = 4 << 20 };
    static uint8_t text[SIZE];
    static int32_t heads[1 << 16];
    for (int i = 0; i < SIZE; i++) text[i] = next_random() % 7 ? "etaoin shrdlu"[next_random() % 13] : text[i / 2];
    memset(heads, 0xff, sizeof heads);
    uint64_t out = 0;
    for (int i = 0; i + 8 < SIZE;) {
        uint32_t word;
        memcpy(&word, text + i, 4);
        uint32_t slot = word * 2654435761u >> 16;
        int32_t at = heads[slot], length = 0;
        heads[slot] = i;
        if (at >= 0) {
            while (length < 255 && i + length < SIZE && text[at + length] == text[i + length]) length++;
        }
        if (length >= 4) {
            out = out * 31 + (uint64_t)(i - at) * 256 + length;
            i += length;
        } else {
            out = out * 31 + text[i++];
        }
    }
    return out;
}

static uint64_t matrix(void) {
    enum { N = 160, ROUNDS = 6 };
    static double a[N][N], b[N][N], c[N][N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) a[i][j] = i - j * 0.5, b[i][j] = j + i * 0.25;
    double trace = 0;
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = round;
                for (int k = 0; k < N; k++) sum += a[i][k] * b[k][j];
                c[i][j] = sum;
            }
        for (int i = 0; i < N; i++) trace += c[i][i];
    }
    return (uint64_t)(int64_t)trace;
}

static uint64_t bodies(void) {
    enum { N = 5, STEPS = 120000 };
    double p[N][3], v[N][3], m[N];
    for (int i = 0; i < N; i++) {
        m[i] = 1.0 / (i + 1);
        for (int d = 0; d < 3; d++) p[i][d] = (i * 7 + d * 3) % 11, v[i][d] = (i + d) * 0.01;
    }
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < N; i++)
            for (int j = i + 1; j < N; j++) {
                double r[3], square = 0.01;
                for (int d = 0; d < 3; d++) r[d] = p[i][d] - p[j][d], square += r[d] * r[d];
                double pull = 0.001 / (square * sqrt(square));
                for (int d = 0; d < 3; d++) v[i][d] -= r[d] * m[j] * pull, v[j][d] += r[d] * m[i] * pull;
            }
        for (int i = 0; i < N; i++)
            for (int d = 0; d < 3; d++) p[i][d] += 0.001 * v[i][d];
    }
    return (uint64_t)(int64_t)(p[0][0] * 1e9);
}

static uint64_t syscalls(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 1000000; i++) sum += syscall(SYS_getppid);
    return sum != 0;
}

static uint64_t faults(void) {
    enum { PAGES = 256, ROUNDS = 150 };
    uint64_t sum = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *area = mmap(0, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        for (int page = 0; page < PAGES; page++) area[page * 4096] = page, sum += area[page * 4096];
        munmap(area, PAGES * 4096);
    }
    return sum;
}

static uint64_t forks(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 500; i++) {
        pid_t child = fork();
        if (!child) _exit(i & 63);
        int status;
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status);
    }
    return sum;
}

static uint64_t execs(void) {
    uint64_t sum = 0;
    for (int i = 0; i < 200; i++) {
        pid_t child = fork();
        if (!child) {
            execl("/bin/busybox", "false", (char *)0);
            _exit(99);
        }
        int status;
        waitpid(child, &status, 0);
        sum += WEXITSTATUS(status);
    }
    return sum;
}

static uint64_t pipes(void) {
    int there[2], back[2];
    if (pipe(there) || pipe(back)) return 0;
    pid_t child = fork();
    uint64_t word = 0;
    if (!child) {
        while (read(there[0], &word, 8) == 8 && word != ~0ull) {
            word++;
            if (write(back[1], &word, 8) != 8) break;
        }
        _exit(0);
    }
    for (int i = 0; i < 15000; i++)
        if (write(there[1], &word, 8) != 8 || read(back[0], &word, 8) != 8) return 0;
    uint64_t last = ~0ull;
    if (write(there[1], &last, 8) != 8) return 0;
    waitpid(child, 0, 0);
    return word;
}

static uint64_t shell(void) {
    int status = system("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; [ $i = 20000 ]");
    return status == 0;
}

static uint64_t gzip(void) {
    FILE *file = fopen("/tmp/text", "w");
    for (int i = 0; i < 300000; i++) fprintf(file, "%llu %x\n", (unsigned long long)next_random() % 1000, i);
    fclose(file);
    return system("gzip -c /tmp/text > /tmp/text.gz && gunzip -c /tmp/text.gz | cmp - /tmp/text") == 0;
}

static const struct {
    const char *name;
    uint64_t (*run)(void);
} CASES[] = {
    {"sieve", sieve}, {"sha256", sha256}, {"sort", sort}, {"compress", compress}, {"gzip", gzip},
    {"matrix", matrix}, {"bodies", bodies}, {"syscalls", syscalls}, {"faults", faults}, {"forks", forks},
    {"execs", execs}, {"pipes", pipes}, {"shell", shell},
};

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        for (unsigned n = 0; n < sizeof CASES / sizeof *CASES; n++)
            if (!strcmp(argv[i], CASES[n].name)) {
                printf("begin %s\n", argv[i]);
                fflush(stdout);
                uint64_t result = CASES[n].run();
                printf("end %s %016llx\n", argv[i], (unsigned long long)result);
                fflush(stdout);
            }
    return 0;
}
