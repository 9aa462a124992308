/*
 * rte_acl: classification in bursts of 64, by (protocol, policy set, identity, destination port, direction), on the
 * rules of benches/src/peers/keys.rs, with the fastest algorithm that the CPU has.
 *
 *   acl <rules>
 */
#include "peer.h"

#include <rte_acl.h>

#define QUERIES (1u << 16)
#define RULES_PER_ROW 4u
#define ROWS_PER_SET 8u

/* What is looked at, in network order. */
struct query {
	uint8_t protocol, reserved[3];
	uint32_t set, identity;
	uint16_t port, direction;
};

enum { PROTOCOL, SET, IDENTITY, PORT, DIRECTION, FIELDS };
RTE_ACL_RULE_DEF(rule, FIELDS);

#define FIELD(kind, bytes, number, input, member) \
	{ .type = RTE_ACL_FIELD_TYPE_##kind, .size = bytes, .field_index = number, .input_index = input, \
	  .offset = offsetof(struct query, member) }

static const struct rte_acl_field_def DEFINITIONS[FIELDS] = {
	FIELD(BITMASK, 1, PROTOCOL, 0, protocol), FIELD(MASK, 4, SET, 1, set), FIELD(MASK, 4, IDENTITY, 2, identity),
	FIELD(RANGE, 2, PORT, 3, port), FIELD(BITMASK, 2, DIRECTION, 3, direction),
};

static struct rte_acl_ctx *context;
static struct query queries[QUERIES];
static unsigned rules, next;

static uint8_t protocol(unsigned i) { return mix(i) >> 16 & 1 ? 6 : 17; }
static uint32_t set(unsigned i) { return 1 + i / RULES_PER_ROW / ROWS_PER_SET; }
static uint32_t identity(unsigned i) { return 16 + i / RULES_PER_ROW * 37 % 1000; }
static uint16_t port_first(unsigned i) { return 1024 + mix(i) % 60000; }
static uint16_t ports(unsigned i) { return 1 + (mix(i) >> 32) % 16; }

/* Earlier rules come first. The answer is the rule's number + 1. */
static void add_rule(unsigned i)
{
	struct rule rule = { .data = { .category_mask = 1, .priority = (int)(rules - i), .userdata = i + 1 } };
	rule.field[PROTOCOL] = (struct rte_acl_field){ .value.u8 = protocol(i), .mask_range.u8 = 0xff };
	rule.field[SET] = (struct rte_acl_field){ .value.u32 = set(i), .mask_range.u32 = 32 };
	rule.field[IDENTITY] = (struct rte_acl_field){ .value.u32 = identity(i), .mask_range.u32 = 32 };
	rule.field[PORT] = (struct rte_acl_field){ .value.u16 = port_first(i),
						   .mask_range.u16 = port_first(i) + ports(i) - 1 };
	rule.field[DIRECTION] = (struct rte_acl_field){ .value.u16 = 0, .mask_range.u16 = 0xffff };
	if (rte_acl_add_rules(context, (void *)&rule, 1) < 0)
		die("rte_acl refuses rule %u", i);
}

/* Of 16: one from an identity without rules, four to a port without one, the others to a port of some rule. */
static struct query query(unsigned i)
{
	uint64_t random = mix(1u << 20 | i);
	unsigned of = random % rules, kind = random >> 60;
	uint16_t port = port_first(of) + (random >> 32 & 0xffff) % ports(of);
	return (struct query){
		.protocol = protocol(of), .set = __builtin_bswap32(set(of)),
		.identity = __builtin_bswap32(kind == 0 ? 1 : identity(of)),
		.port = __builtin_bswap16(kind >= 1 && kind <= 4 ? 80 : port),
	};
}

static void build(void)
{
	struct rte_acl_param parameters = { .name = "policy", .socket_id = (int)rte_socket_id(),
		.rule_size = RTE_ACL_RULE_SZ(FIELDS), .max_rule_num = rules };
	struct rte_acl_config config = { .num_categories = 1, .num_fields = FIELDS };
	memcpy(config.defs, DEFINITIONS, sizeof DEFINITIONS);
	context = rte_acl_create(&parameters);
	if (!context)
		die("rte_acl cannot be made: %s", rte_strerror(rte_errno));
	for (unsigned i = 0; i < rules; i++)
		add_rule(i);
	int built = rte_acl_build(context, &config);
	if (built < 0)
		die("rte_acl cannot build %u rules: %s", rules, strerror(-built));
}

static void choose_algorithm(void)
{
	static const enum rte_acl_classify_alg FASTEST_FIRST[] = { RTE_ACL_CLASSIFY_AVX512X32, RTE_ACL_CLASSIFY_AVX512X16,
		RTE_ACL_CLASSIFY_AVX2, RTE_ACL_CLASSIFY_SSE, RTE_ACL_CLASSIFY_DEFAULT };
	for (unsigned i = 0; rte_acl_set_ctx_classify(context, FASTEST_FIRST[i]) < 0 && FASTEST_FIRST[i]; i++)
		;
}

static uint64_t bursts(unsigned count)
{
	uint64_t answers = 0;
	const uint8_t *data[BURST];
	uint32_t results[BURST];
	while (count--) {
		for (unsigned i = 0; i < BURST; i++)
			data[i] = (const void *)(queries + next + i);
		rte_acl_classify(context, data, results, BURST, 1);
		for (unsigned i = 0; i < BURST; i++)
			answers += results[i];
		next = (next + BURST) % QUERIES;
	}
	return answers;
}

int main(int count, char **arguments)
{
	rules = count == 2 ? (unsigned)atoi(arguments[1]) : 0;
	if (!rules)
		die("usage: acl RULES");
	start(2048);
	uint64_t before = heap_bytes();
	build();
	choose_algorithm();
	for (unsigned i = 0; i < QUERIES; i++)
		queries[i] = query(i);
	uint64_t bytes = heap_bytes() - before;
	return serve(bytes, bursts(QUERIES / BURST), bursts);
}
