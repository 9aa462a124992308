/*
 * rte_hash: bulk look-ups of 64 keys in random order, CRC hash, one reader without locks.
 *
 *   hash <16|40|48 bytes a key> <entries> <record|value>
 *
 * Keys: 40 bytes are Fairway's tuple, 48 are that, padded to a size that has a fast compare. Answers: a record of a cache
 * line, which a flow cache would keep behind the value (fetched ahead for the whole burst), or the value beside the key.
 */
#include "peer.h"

#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_prefetch.h>

static struct rte_hash *table;
/* In the order of the look-ups. */
static uint8_t *keys;
static uint32_t key_bytes, entries, next;

struct record {
	uint64_t answer, others[7];
};
/* NULL: answers are the values themselves. */
static struct record *records;

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
		void *value = records ? (void *)(records + i) : (void *)(uintptr_t)(i + 1);
		if (records)
			records[i].answer = i + 1;
		if (rte_hash_add_key_data(table, key, value) < 0)
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

static void make_records(void)
{
	records = rte_zmalloc("records", (size_t)entries * sizeof *records, 64);
	if (!records)
		die("no memory for %u records", entries);
}

static inline uint64_t read_values(void *const *values)
{
	uint64_t answers = 0;
	for (unsigned i = 0; i < BURST; i++)
		answers += (uintptr_t)values[i];
	return answers;
}

static inline uint64_t read_records(void *const *values)
{
	uint64_t answers = 0;
	for (unsigned i = 0; i < BURST; i++)
		rte_prefetch0(values[i]);
	for (unsigned i = 0; i < BURST; i++)
		answers += ((const struct record *)values[i])->answer;
	return answers;
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
		answers += records ? read_records(values) : read_values(values);
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
		sum += records ? ((struct record *)value)->answer : (uintptr_t)value;
	}
	return sum;
}

int main(int count, char **arguments)
{
	int with_records = count == 4 && !strcmp(arguments[3], "record");
	key_bytes = count == 4 ? (uint32_t)atoi(arguments[1]) : 0;
	entries = count == 4 ? (uint32_t)atoi(arguments[2]) : 0;
	if ((key_bytes != 16 && key_bytes != 40 && key_bytes != 48) || entries < BURST ||
	    (!with_records && strcmp(arguments[3], "value")))
		die("usage: hash 16|40|48 ENTRIES record|value");
	start(256 + entries / 1024 * 384 / 1024);
	uint64_t before = heap_bytes();
	if (with_records)
		make_records();
	fill();
	order_keys();
	return serve(heap_bytes() - before, check(), bursts);
}
