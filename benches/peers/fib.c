/*
 * rte_fib (DIR24-8, its vector look-up where the CPU has it) and rte_lpm: IPv4 look-ups in bursts of 64, of random
 * addresses, on the prefixes of benches/src/peers/keys.rs.
 *
 *   fib <fib|lpm|lpmx4> <nodes|mixed>      nodes: one /24 for each of 5,000 nodes, /16s and a default; mixed: 200,000
 */
#include "peer.h"

#include <rte_fib.h>
#include <rte_lpm.h>
#include <rte_vect.h>

#define NODES 5000u
#define PODS 190000u
#define BLOCKS 4996u
#define ADDRESSES (1u << 15)

struct prefix {
	uint32_t address;
	uint8_t length;
};

static const struct prefix FEW[] = {
	{ 0x0a010000, 24 }, { 0x0a020000, 16 }, { 0xac1e0000, 16 }, { 0, 0 },
};
#define FEW_COUNT 4u

static struct rte_fib *fib;
static struct rte_lpm *lpm;
static uint32_t addresses[ADDRESSES];
static unsigned next;

/* Prefix i; its value is i + 1. Pods are spread over the nodes' ranges. */
static struct prefix prefix(unsigned i)
{
	if (i < FEW_COUNT)
		return FEW[i];
	i -= FEW_COUNT;
	if (i < NODES)
		return (struct prefix){ 0x0b000000 + (i << 8), 24 };
	i -= NODES;
	if (i < PODS)
		return (struct prefix){ 0x0b000000 + (i % NODES << 8) + 2 + i / NODES, 32 };
	return (struct prefix){ 0x64400000 + ((i - PODS) << 8), 26 };
}

/* Of 16: one each to the second node's range, a service, an ipBlock and the world, the others to nodes and pods. */
static uint32_t address(unsigned i)
{
	uint64_t random = mix(i);
	uint32_t wide = random >> 32;
	switch (random & 15) {
	case 0: return 0x0a020000 | (wide & 0xffff);
	case 1: return 0xac1e0000 | (wide & 0xffff);
	case 2: return 0x64400000 + (wide % BLOCKS << 8) + (random >> 8 & 0xff);
	case 3: return wide;
	default: return 0x0b000000 + (wide % NODES << 8) + (random >> 8 & 0xff);
	}
}

static uint64_t fib_bursts(unsigned count)
{
	uint64_t answers = 0, values[BURST];
	while (count--) {
		rte_fib_lookup_bulk(fib, addresses + next, values, BURST);
		for (unsigned i = 0; i < BURST; i++)
			answers += values[i];
		next = (next + BURST) % ADDRESSES;
	}
	return answers;
}

static uint64_t lpm_bursts(unsigned count)
{
	uint64_t answers = 0;
	uint32_t values[BURST];
	while (count--) {
		rte_lpm_lookup_bulk(lpm, addresses + next, values, BURST);
		for (unsigned i = 0; i < BURST; i++)
			answers += values[i] & 0xffffff;
		next = (next + BURST) % ADDRESSES;
	}
	return answers;
}

static uint64_t lpmx4_bursts(unsigned count)
{
	uint64_t answers = 0;
	uint32_t values[BURST];
	while (count--) {
		for (unsigned i = 0; i < BURST; i += 4)
			rte_lpm_lookupx4(lpm, _mm_loadu_si128((const void *)(addresses + next + i)), values + i, 0);
		for (unsigned i = 0; i < BURST; i++)
			answers += values[i];
		next = (next + BURST) % ADDRESSES;
	}
	return answers;
}

static void fill_fib(unsigned count)
{
	struct rte_fib_conf conf = {
		.type = RTE_FIB_DIR24_8, .max_routes = (int)count + 64,
		.dir24_8 = { .nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = 1 << 14 },
	};
	fib = rte_fib_create("routes", (int)rte_socket_id(), &conf);
	if (!fib)
		die("rte_fib cannot be made: %s", rte_strerror(rte_errno));
	if (rte_fib_select_lookup(fib, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512) < 0)
		rte_fib_select_lookup(fib, RTE_FIB_LOOKUP_DEFAULT);
	for (unsigned i = 0; i < count; i++)
		if (rte_fib_add(fib, prefix(i).address, prefix(i).length, i + 1) < 0)
			die("rte_fib refuses prefix %u", i);
}

static void fill_lpm(unsigned count)
{
	struct rte_lpm_config config = { .max_rules = count + 64, .number_tbl8s = 1 << 14 };
	lpm = rte_lpm_create("routes", (int)rte_socket_id(), &config);
	if (!lpm)
		die("rte_lpm cannot be made: %s", rte_strerror(rte_errno));
	for (unsigned i = 0; i < count; i++)
		/* It has no length 0: two halves instead. */
		for (unsigned half = 0; half <= !prefix(i).length; half++)
			if (rte_lpm_add(lpm, prefix(i).address | half << 31, prefix(i).length ? prefix(i).length : 1, i + 1) < 0)
				die("rte_lpm refuses prefix %u", i);
}

int main(int count, char **arguments)
{
	const char *kind = count == 3 ? arguments[1] : "", *set = count == 3 ? arguments[2] : "";
	int is_fib = !strcmp(kind, "fib");
	if ((!is_fib && strcmp(kind, "lpm") && strcmp(kind, "lpmx4")) || (strcmp(set, "nodes") && strcmp(set, "mixed")))
		die("usage: fib fib|lpm|lpmx4 nodes|mixed");
	uint64_t (*bursts)(unsigned) = is_fib ? fib_bursts : strcmp(kind, "lpm") ? lpmx4_bursts : lpm_bursts;
	unsigned prefixes = FEW_COUNT + NODES + (strcmp(set, "mixed") ? 0 : PODS + BLOCKS);
	start(512);
	uint64_t before = heap_bytes();
	(is_fib ? fill_fib : fill_lpm)(prefixes);
	for (unsigned i = 0; i < ADDRESSES; i++)
		addresses[i] = address(i);
	uint64_t bytes = heap_bytes() - before;
	return serve(bytes, bursts(ADDRESSES / BURST), bursts);
}
