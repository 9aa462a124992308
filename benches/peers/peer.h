/*
 * What the peer programs share: DPDK started without devices and without traces, the numbers that keys are made of
 * (benches/src/peers/keys.rs makes the same ones), and the lines that benches/src/peers.rs speaks:
 *
 *   ready <bytes of the structure> <sum of all answers>     once, when it is built and checked
 *   <ns of CPU time each> <that in TSC ticks>                one for each line "run" on stdin; ends at its end
 *
 * Environment: FAIRWAY_BENCH_CORE (default: the last one it may use), FAIRWAY_BENCH_HUGE=1 (huge pages, else none).
 * Nothing here must know what is looked up.
 */
#ifndef FAIRWAY_PEER_H
#define FAIRWAY_PEER_H

#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_malloc.h>

#define BURST 64
/* Bursts between two looks at the clock, before a run to warm, and how long it takes then; as ours do. */
#define BURSTS_PER_LOOK 256
#define BURSTS_TO_WARM (4 * BURSTS_PER_LOOK)
#define RUN_NS 40000000u

static void die(const char *what, ...) __attribute__((noreturn, format(printf, 1, 2)));
static void die(const char *what, ...)
{
	va_list arguments;
	va_start(arguments, what);
	vfprintf(stderr, what, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

/* DPDK makes a folder for run-time files even where it keeps none: it gets one of its own, gone when it has started. */
static void init(int count, char **arguments)
{
	char folder[] = "/tmp/fairway-peer-XXXXXX", inner[64];
	int out = dup(STDOUT_FILENO);
	if (!mkdtemp(folder) || setenv("RUNTIME_DIRECTORY", folder, 1) < 0)
		die("no folder in /tmp can be made");
	/* Its help goes to stdout, which is not for it. */
	dup2(STDERR_FILENO, STDOUT_FILENO);
	int started = rte_eal_init(count, arguments);
	fflush(stdout);
	dup2(out, STDOUT_FILENO);
	close(out);
	for (const char **part = (const char *[]){ "/dpdk/rte", "/dpdk", "", NULL }; *part; part++) {
		snprintf(inner, sizeof inner, "%s%s", folder, *part);
		rmdir(inner);
	}
	if (started < 0)
		die("DPDK does not start on core %s: %s; is the core there, is there memory?", arguments[2],
		    rte_strerror(rte_errno));
}

/* The last core that this process may use. */
static int last_core(void)
{
	cpu_set_t usable;
	int core = CPU_SETSIZE - 1;
	if (sched_getaffinity(0, sizeof usable, &usable) < 0)
		die("the kernel does not say which cores may be used");
	while (core > 0 && !CPU_ISSET(core, &usable))
		core--;
	return core;
}

/* Starts DPDK's memory and CPU parts alone. Without huge pages it wants to know its memory beforehand: megabytes_max of
 * address space, of which only what is touched costs anything. */
static void start(unsigned megabytes_max)
{
	const char *core = getenv("FAIRWAY_BENCH_CORE"), *huge = getenv("FAIRWAY_BENCH_HUGE");
	char cores[24], megabytes[16];
	char *arguments[] = { "peer", "-l", cores, "--no-pci", "--no-telemetry", "--no-shconf", "--log-level=*:error",
		"--force-max-simd-bitwidth=512", "--in-memory", "--single-file-segments", NULL, NULL };
	int count = 10;
	snprintf(megabytes, sizeof megabytes, "%u", megabytes_max);
	snprintf(cores, sizeof cores, "%d", core ? atoi(core) : last_core());
	if (!huge || strcmp(huge, "1")) {
		arguments[8] = "--no-huge";
		arguments[9] = "-m";
		arguments[10] = megabytes;
		count = 11;
	}
	init(count, arguments);
}

/* Bytes that DPDK's heap has handed out. */
static uint64_t heap_bytes(void)
{
	struct rte_malloc_socket_stats stats;
	return rte_malloc_get_socket_stats((int)rte_socket_id(), &stats) < 0 ? 0 : stats.heap_allocsz_bytes;
}

/* splitmix64, as a function of its counter. */
static inline uint64_t mix(uint64_t i)
{
	uint64_t z = (i + 1) * 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* A repeatable shuffle of 0..count. */
static inline uint32_t *shuffled(uint32_t count)
{
	uint32_t *order = malloc(count * sizeof *order);
	uint64_t state = 1;
	if (!order)
		die("no memory for the order of %u look-ups", count);
	for (uint32_t i = 0; i < count; i++)
		order[i] = i;
	for (uint32_t i = count - 1; i > 0; i--) {
		state = state * 6364136223846793005u + 1442695040888963407u;
		uint32_t other = (state >> 33) % (i + 1), kept = order[i];
		order[i] = order[other];
		order[other] = kept;
	}
	return order;
}

static inline uint64_t cpu_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Answers requests until there are no more. */
static int serve(uint64_t bytes, uint64_t sum, uint64_t (*bursts)(unsigned count))
{
	static volatile uint64_t answers;
	char line[16];
	printf("ready %lu %lu\n", bytes, sum);
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		answers += bursts(BURSTS_TO_WARM);
		uint64_t start = cpu_ns(), ns, done = 0;
		do {
			answers += bursts(BURSTS_PER_LOOK);
			done += BURSTS_PER_LOOK * BURST;
		} while ((ns = cpu_ns() - start) < RUN_NS);
		double each = (double)ns / (double)done;
		printf("%.3f %.3f\n", each, each * 1e-9 * (double)rte_get_tsc_hz());
		fflush(stdout);
	}
	rte_eal_cleanup();
	return 0;
}

#endif
