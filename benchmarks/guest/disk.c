/* Disk benchmark inside a guest: native AIO with O_DIRECT, fixed work, one "name=figure" line a case.
 * Random 4 KiB at depth 1 and 32 in operations per second, sequential 128 KiB at depth 4 in MB/s; at the end the
 * sum of what the disk holds, which must not depend on who emulated it. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define DISK_BYTES (64u << 20)
#define MAX_DEPTH 32

static int disk;
static char *buffers[MAX_DEPTH];
static uint64_t seed = 88172645463325252ull;

static uint64_t next_random(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void run(const char *name, int writes, int random_order, unsigned size, int depth, int count)
{
	aio_context_t context = 0;
	struct iocb control[MAX_DEPTH], *pointer;
	struct io_event events[MAX_DEPTH];
	int started = 0, done = 0;
	double begin;

	if (syscall(SYS_io_setup, depth, &context) < 0) {
		perror("io_setup");
		exit(1);
	}
	begin = now();
	while (done < count) {
		int got;

		if (started < count && started - done < depth) {
			/* the slot of the oldest request is free: completions are counted in batches below */
			static int free_slots[MAX_DEPTH], free_count;

			if (started == 0)
				for (free_count = 0; free_count < depth; free_count++)
					free_slots[free_count] = free_count;
			while (started < count && free_count) {
				int slot = free_slots[--free_count];
				uint64_t block = random_order ? next_random() % (DISK_BYTES / size) : started % (DISK_BYTES / size);

				memset(&control[slot], 0, sizeof control[slot]);
				control[slot].aio_fildes = disk;
				control[slot].aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
				control[slot].aio_buf = (uintptr_t)buffers[slot];
				control[slot].aio_nbytes = size;
				control[slot].aio_offset = block * size;
				control[slot].aio_data = slot;
				if (writes)
					memset(buffers[slot], (int)(block * 37 + size), size);
				pointer = &control[slot];
				if (syscall(SYS_io_submit, context, 1, &pointer) != 1) {
					perror("io_submit");
					exit(1);
				}
				started++;
			}
			got = syscall(SYS_io_getevents, context, 1, depth, events, 0);
			for (int i = 0; i < got; i++) {
				if ((long)events[i].res != (long)size) {
					printf("error=%ld\n", (long)events[i].res);
					exit(1);
				}
				free_slots[free_count++] = events[i].data;
			}
		} else {
			got = syscall(SYS_io_getevents, context, 1, depth, events, 0);
			for (int i = 0; i < got; i++)
				if ((long)events[i].res != (long)size) {
					printf("error=%ld\n", (long)events[i].res);
					exit(1);
				}
		}
		done += got;
	}
	begin = now() - begin;
	printf("%s=%.1f\n", name, random_order ? count / begin : (double)count * size / begin / 1e6);
	fflush(stdout);
	syscall(SYS_io_destroy, context);
}

int main(int argc, char **argv)
{
	int share = argc > 2 ? atoi(argv[2]) : 1;
	uint64_t sum = 0;

	disk = open(argc > 1 ? argv[1] : "/dev/vdc", O_RDWR | O_DIRECT);
	if (disk < 0) {
		perror("open");
		return 1;
	}
	for (int i = 0; i < MAX_DEPTH; i++)
		if (posix_memalign((void **)&buffers[i], 4096, 128 << 10))
			return 1;
	run("warm-up", 0, 0, 128 << 10, 4, 512 / share);
	run("randread-1", 0, 1, 4096, 1, 3000 / share);
	run("randread-32", 0, 1, 4096, 32, 16000 / share);
	run("randwrite-1", 1, 1, 4096, 1, 3000 / share);
	run("randwrite-32", 1, 1, 4096, 32, 16000 / share);
	run("seqread", 0, 0, 128 << 10, 4, 2048 / share);
	run("seqwrite", 1, 0, 128 << 10, 4, 1500 / share);
	for (unsigned at = 0; at < DISK_BYTES; at += 128 << 10) {
		if (pread(disk, buffers[0], 128 << 10, at) != 128 << 10)
			return 1;
		for (unsigned i = 0; i < 128 << 10; i += 8)
			sum = sum * 31 + *(uint64_t *)(buffers[0] + i);
	}
	printf("sum=%016llx\nbench-done\n", (unsigned long long)sum);
	return 0;
}
