/*
 * rte_hash: bulk look-ups of 64 keys in random order, CRC hash, one reader without locks. The value (8 bytes beside the
 * key) is read; what a flow cache would fetch behind it is not.
 *
 *   hash <16|40|48 bytes a key> <entries>     40: Fairway's tuple; 48: that, padded to a size that has a fast compare
 */
#include "peer.h"

#include <rte_hash.h>
#include <rte_hash_crc.h>

static struct rte_hash *table;
/* In the order of the look-ups. */
static uint8_t *keys;
static uint32_t key_bytes, entries, next;

/* Key i: 16 bytes of IPv4 addresses, ports and protocol, or the bytes of `keys::tuple`. */
static void make_key(uint8_t *key, uint32_t i)
{
	uint64_t random = mix(i);
	uint32_t local = 0x0a010000 | (random & 0xff), remote = 0x0b000000 | i;
	uint32_t ports = (1024 + (random >> 8 & 0x7fff)) | 80u << 16;
	if (key_bytes == 16) {
		uint32_t words[4] = { local, remote, ports, 17 };
		memcpy(key, words, sizeof words);
	} else {
		uint64_t words[6] = { 0, 0xffff00000000 | local, 0, 0xffff00000000 | remote, ports | 17ull << 32, 0 };
		memcpy(key, words, key_bytes);
	}
}

static void fill(void)
{
	struct rte_hash_parameters parameters = {
		.name = "flows", .entries = entries + entries / 4, .key_len = key_bytes,
		.hash_func = rte_hash_crc, .socket_id = (int)rte_socket_id(),
	};
	uint8_t key[48];
	table = rte_hash_create(&parameters);
	if (!table)
		die("rte_hash refuses %u entries of %u bytes: %s", entries, key_bytes, rte_strerror(rte_errno));
	for (uint32_t i = 0; i < entries; i++) {
		make_key(key, i);
		if (rte_hash_add_key_data(table, key, (void *)(uintptr_t)(i + 1)) < 0)
			die("rte_hash is full at entry %u of %u", i, entries);
	}
}

static void order_keys(void)
{
	uint32_t *order = shuffled(entries);
	/* A burst may begin at the last key. */
	keys = aligned_alloc(64, ((size_t)(entries + BURST) * key_bytes + 63) / 64 * 64);
	if (!keys)
		die("no memory for %u keys", entries);
	for (uint32_t i = 0; i < entries + BURST; i++)
		make_key(keys + (size_t)i * key_bytes, order[i % entries]);
	free(order);
}

static uint64_t bursts(unsigned count)
{
	uint64_t answers = 0, found;
	const void *wanted[BURST];
	void *values[BURST];
	while (count--) {
		for (unsigned i = 0; i < BURST; i++)
			wanted[i] = keys + (size_t)(next + i) * key_bytes;
		rte_hash_lookup_bulk_data(table, wanted, BURST, &found, values);
		for (unsigned i = 0; i < BURST; i++)
			answers += (uintptr_t)values[i];
		next = next + BURST < entries ? next + BURST : 0;
	}
	return answers;
}

/* Every key is there with its value. */
static uint64_t check(void)
{
	uint64_t sum = 0;
	for (uint32_t i = 0; i < entries; i++) {
		void *value;
		if (rte_hash_lookup_data(table, keys + (size_t)i * key_bytes, &value) < 0)
			die("rte_hash has lost a key");
		sum += (uintptr_t)value;
	}
	return sum;
}

int main(int count, char **arguments)
{
	key_bytes = count == 3 ? (uint32_t)atoi(arguments[1]) : 0;
	entries = count == 3 ? (uint32_t)atoi(arguments[2]) : 0;
	if ((key_bytes != 16 && key_bytes != 40 && key_bytes != 48) || entries < BURST)
		die("usage: hash 16|40|48 ENTRIES");
	start(256 + entries / 1024 * 320 / 1024);
	uint64_t before = heap_bytes();
	fill();
	order_keys();
	return serve(heap_bytes() - before, check(), bursts);
}
