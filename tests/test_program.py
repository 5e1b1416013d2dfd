"""What is read from a compiled program: without a loop what XLA counts, with a loop that times its trips."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from arch.plan.program import collectives, count, hlo


def compiled(function, *shapes):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)).compile()


def counted(function, *shapes):
    return count.total(count.ops(compiled(function, *shapes).as_text()))


def perceptron(x, *weights):
    for weight in weights:
        x = jnp.tanh(x @ weight)
    return jnp.sum(x**2)


def convolved(x, weight):
    sides = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"), padding=((1, 2), (0, 3)), window_strides=(2, 1))
    dilation = dict(lhs_dilation=(2, 1), rhs_dilation=(1, 2))
    return lax.conv_general_dilated(x, weight, feature_group_count=2, **sides, **dilation)


PROGRAMS = {
    "perceptron": (perceptron, (5, 7), (7, 11), (11, 3)),
    "gradient": (jax.grad(perceptron, (0, 1, 2)), (5, 7), (7, 11), (11, 3)),
    "softmax": (lambda x: jax.nn.softmax(x @ x.T), (7, 5)),
    "convolution": (convolved, (3, 11, 13, 4), (3, 5, 2, 6)),
    "cumulative sum": (lambda x: jnp.cumsum(x, 0), (13, 3)),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_of_a_program_without_loops_it_is_xla_s_count(name):
    function, *shapes = PROGRAMS[name]
    program = compiled(function, *shapes)
    found, cost = count.total(count.ops(program.as_text())), program.cost_analysis()
    flops = cost["flops"] + cost.get("transcendentals", 0)
    assert found["products"] + found["elementwise"] == pytest.approx(flops, rel=0.01)
    assert found["memory"] == pytest.approx(cost["bytes accessed"], rel=0.01)


def scanned(x, weights):
    return lax.scan(lambda x, weight: (jnp.tanh(x @ weight), None), x, weights)[0]


def test_a_scan_has_the_products_of_each_round():
    assert counted(scanned, (5, 7), (11, 7, 7))["products"] == 11 * 2 * 5 * 7 * 7


def test_a_scan_in_a_scan_has_the_product_of_both_trips():
    twice = lambda x, weights: lax.scan(lambda x, each: (scanned(x, each), None), x, weights)[0]
    assert counted(twice, (5, 7), (3, 11, 7, 7))["products"] == 3 * 11 * 2 * 5 * 7 * 7


def test_of_stacked_weights_a_round_of_a_scan_reads_its_own():
    few, many = (counted(scanned, (5, 7), (n, 7, 7))["memory"] for n in (10, 1000))
    assert many == pytest.approx(100 * few, rel=0.05)


def test_a_conditional_has_the_products_of_its_dearest_branch():
    either = lambda p, x: lax.cond(p[0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)
    assert counted(either, (1,), (16, 16))["products"] == 2 * 2 * 16**3


def one(body, *, result="f32[]", before="", parameters="p: f32[8,6]", **how):
    """A program of these instructions, with f32[8,6] as its parameter."""
    text = f"{before}\nENTRY %main ({parameters}) -> {result} {{\n  %p = f32[8,6]{{1,0}} parameter(0)\n{body}\n}}\n"
    return count.total(count.ops(text, **how))


LOOP = """
%condition (s: (s32[], f32[8,6])) -> pred[] {
  %s = (s32[], f32[8,6]{1,0}) parameter(0)
  %limit = s32[] constant(16)
  %counter = s32[] get-tuple-element(%s), index=0
  ROOT %less = pred[] compare(%counter, %limit), direction=LT
}
%body (t: (s32[], f32[8,6])) -> (s32[], f32[8,6]) {
  %t = (s32[], f32[8,6]{1,0}) parameter(0)
  %step = s32[] constant(3)
  %i = s32[] get-tuple-element(%t), index=0
  %x = f32[8,6]{1,0} get-tuple-element(%t), index=1
  %next = s32[] add(%i, %step)
  %y = f32[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %out = (s32[], f32[8,6]{1,0}) tuple(%next, %x)
}
"""
ROUNDS = """
  %start = s32[] constant(4)
  %first = s32[] copy(%start)
  %state = (s32[], f32[8,6]{1,0}) tuple(%first, %p)
  ROOT %loop = (s32[], f32[8,6]{1,0}) while(%state), condition=%condition, body=%body
"""


def test_trips_that_xla_does_not_note_come_of_start_step_and_limit():
    assert one(ROUNDS, before=LOOP)["products"] == 4 * 2 * 8 * 8 * 6  # 4, 7, 10, 13


WITHOUT_END = LOOP.replace("direction=LT", "direction=NE")


def test_a_loop_without_a_known_end_is_refused():
    with pytest.raises(ValueError, match="while=loop must count by a constant step"):
        one(ROUNDS, before=WITHOUT_END)


def test_a_loop_without_a_known_end_has_the_trips_that_are_given():
    for text, trips in {WITHOUT_END: 2.5, LOOP: 4}.items():
        assert one(ROUNDS, before=text, trips=lambda path: 2.5)["products"] == trips * 2 * 8 * 8 * 6


FUSED = """
%fused (a: f32[8,6], b: s32[], c: f32[1,6]) -> f32[8,6] {
  %a = f32[8,6]{1,0} parameter(0)
  %b = s32[] parameter(1)
  %c = f32[1,6]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,6]{1,0} dynamic-slice(%a, %b, %zero), dynamic_slice_sizes={1,6}
  %sum = f32[1,6]{1,0} add(%row, %c)
  ROOT %updated = f32[8,6]{1,0} dynamic-update-slice(%a, %sum, %b, %zero)
}
"""
FUSION = """
  %at = s32[] constant(3)
  %more = f32[1,6]{1,0} constant({...})
  ROOT %fusion = f32[8,6]{1,0} fusion(%p, %at, %more), kind=kLoop, calls=%fused
"""


def test_a_fusion_reads_the_slice_that_it_takes_and_writes_the_one_that_it_updates():
    found = one(FUSION, before=FUSED, result="f32[8,6]")
    assert found["memory"] == 4 * (6 + 1 + 6 + 6)  # the row, its number, what is added, the row again
    assert found["elementwise"] == 6


NESTED = """
%inner (e: f32[8,6]) -> f32[8,8] {
  %e = f32[8,6]{1,0} parameter(0)
  ROOT %d = f32[8,8]{1,0} dot(%e, %e), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
%outer (f: f32[8,6]) -> f32[8,8] {
  %f = f32[8,6]{1,0} parameter(0)
  %g = f32[8,8]{1,0} fusion(%f), kind=kOutput, calls=%inner
  ROOT %h = f32[8,8]{1,0} negate(%g)
}
"""


def test_products_in_a_fusion_of_a_fusion_count():
    found = one("  ROOT %o = f32[8,8]{1,0} fusion(%p), kind=kOutput, calls=%outer", before=NESTED)
    assert (found["products"], found["elementwise"], found["memory"]) == (2 * 8 * 8 * 6, 64, 4 * (48 + 64))


RENAMED = """
%same (e: f32[8,6]) -> f32[8,6] {
  %e = f32[8,6]{1,0} parameter(0)
  ROOT %other = f32[8,6]{1,0} bitcast(%e)
}
%outer (f: f32[8,6]) -> f32[8,8] {
  %f = f32[8,6]{1,0} parameter(0)
  %g = f32[8,6]{1,0} fusion(%f), kind=kLoop, calls=%same
  ROOT %h = f32[8,8]{1,0} dot(%g, %g), lhs_contracting_dims={1}, rhs_contracting_dims={1}
}
"""


def test_what_a_fusion_hands_on_to_its_product_is_read():
    found = one("  ROOT %o = f32[8,8]{1,0} fusion(%p), kind=kOutput, calls=%outer", before=RENAMED)
    assert (found["products"], found["memory"]) == (2 * 8 * 8 * 6, 4 * (48 + 64))


LOOKUP = """ENTRY %main (p: f32[40,256]) -> f32[16,256] {
  %p = f32[40,256]{1,0:T(8,128)} parameter(0)
  %i = s32[16]{0} constant({...})
  ROOT %g = f32[16,256]{1,0:T(8,128)} gather(%p, %i), offset_dims={1}, collapsed_slice_dims={0}, start_index_map={0}, \
index_vector_dim=1, slice_sizes={1,256}
}
"""


@pytest.mark.parametrize("tiles, rows", [(False, 1), (True, 8)])
def test_a_row_that_is_looked_up_counts_as_itself_or_as_its_tile(tiles, rows):
    assert count.total(count.ops(LOOKUP, tiles=tiles))["memory"] == 4 * (16 + 16 * 256 + rows * 16 * 256)


def test_rows_that_are_looked_up_count_in_the_dtype_that_they_become():
    text = LOOKUP.replace("ROOT %g = f32", "ROOT %g = bf16")
    assert count.total(count.ops(text, tiles=True))["memory"] == 4 * 16 + 2 * (16 * 256 + 8 * 16 * 256)


def test_what_tiles_leave_empty_counts_with_them():
    body = "  ROOT %y = f32[8,6]{1,0:T(8,128)} negate(%x)\n  %x = f32[8,6]{1,0:T(8,128)} parameter(1)"
    assert one(body, result="f32[8,6]", parameters="p: f32[8,6], x: f32[8,6]")["memory"] == 2 * 4 * 8 * 128


SCATTER = """
%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}
"""
SCATTERED = """
  %i = s32[2,1]{1,0} constant({...})
  %u = f32[2,6]{1,0} constant({...})
  ROOT %s = f32[8,6]{1,0} scatter(%p, %i, %u), update_window_dims={1}, inserted_window_dims={0}, \
scatter_dims_to_operand_dims={0}, index_vector_dim=1, to_apply=%add
"""


def test_a_scatter_reads_its_updates_and_reads_and_writes_their_rows():
    assert one(SCATTERED, before=SCATTER)["memory"] == 4 * (2 + 3 * 12)


PREFETCH = """
  %begin = (f32[8,6]{1,0:S(1)}, f32[8,6]{1,0}, u32[]{:S(2)}) copy-start(%p)
  %end = f32[8,6]{1,0:S(1)} copy-done(%begin)
  ROOT %n = f32[8,6]{1,0:S(1)} negate(%end)
"""


def test_what_is_copied_close_counts_once_and_stays_there():
    found = one(PREFETCH)
    assert (found["memory"], found["near"]) == (4 * 4 * 48, 3 * 4 * 48)


RAGGED = """
  %sizes = s32[3]{0} constant({...})
  %rows = bf16[40,6]{1,0} constant({...})
  %experts = bf16[2,6,10]{2,1,0} constant({...})
  ROOT %ragged-dot-none.1 = bf16[40,10]{1,0} custom-call(%sizes, %rows, %experts), \
custom_call_target="tpu_custom_call", backend_config={"custom_call_config":\
{"body":"YWJj","cost_estimate":{"flops":"4800","bytes_accessed":"1532"}}}
"""


@pytest.mark.parametrize("filled", [1.0, 0.25])
def test_of_a_ragged_product_the_rows_that_are_there_count(filled):
    text = f"ENTRY %main () -> bf16[40,10] {{{RAGGED}}}\n"
    found = count.total(count.ops(text, filled=filled))
    assert found["products"] == filled * 2 * 40 * 6 * 10
    assert found["memory"] == 3 * 4 + 2 * 2 * 6 * 10 + filled * 2 * (40 * 6 + 40 * 10)


def test_a_kernel_that_does_not_declare_its_cost_is_refused():
    with pytest.raises(ValueError, match=r"custom-call=ragged-dot-none.1 \(tpu_custom_call\) must declare its cost"):
        count.ops(f"ENTRY %main () -> bf16[40,10] {{{RAGGED.replace('cost_estimate', 'other')}}}\n")


CHAIN = """
%first (q: f32[8,6]) -> (f32[8,6], f32[32,6]) {
  %q = f32[8,6]{1,0} parameter(0)
  %gather.1 = f32[32,6]{1,0} all-gather(%q), replica_groups=[2,4]<=[8], chain_id="3"
  ROOT %begun = (f32[8,6]{1,0}, f32[32,6]{1,0}) custom-call(%gather.1), custom_call_target="AsyncCollectiveStart"
}
%beside (r: f32[8,6], s: f32[32,6]) -> (f32[8,8], f32[8,6], f32[32,6]) {
  %r = f32[8,6]{1,0} parameter(0)
  %s = f32[32,6]{1,0} parameter(1)
  %gather.2 = f32[32,6]{1,0} all-gather(%r), replica_groups=[2,4]<=[8], chain_id="3"
  %d = f32[8,8]{1,0} dot(%r, %r), lhs_contracting_dims={1}, rhs_contracting_dims={1}
  ROOT %both = (f32[8,8]{1,0}, f32[8,6]{1,0}, f32[32,6]{1,0}) tuple(%d, %r, %gather.2)
}
"""
CHAINED = """
  %a = (f32[8,6]{1,0}, f32[32,6]{1,0}) fusion(%p), kind=kCustom, calls=%first
  %b = f32[8,6]{1,0} get-tuple-element(%a), index=0
  %c = f32[32,6]{1,0} get-tuple-element(%a), index=1
  ROOT %d2 = (f32[8,8]{1,0}, f32[8,6]{1,0}, f32[32,6]{1,0}) fusion(%b, %c), kind=kCustom, calls=%beside
"""


def test_a_collective_in_several_fusions_counts_once():
    found = one(CHAINED, before=CHAIN)
    assert found["received_by"] == {"all-gather": 4 * 32 * 6 * 3 / 4}
    assert found["memory"] == 4 * (48 + 32 * 6) + 4 * (48 + 64)


MESSAGES = """
%all-reduce-scatter.1 (p: bf16[8,12]) -> bf16[2,12] {
  %a = bf16[8,12]{1,0} parameter(0)
  %all-reduce.4 = bf16[8,12]{1,0} all-reduce(%a), replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
}
ENTRY %main (p: f32[]) -> f32[] {
  %p = bf16[1,2,12]{2,1,0} parameter(0)
  %b = bf16[8,12]{1,0} parameter(1)
  %all-gather.1 = bf16[1,8,12]{2,1,0:T(8,128)} all-gather(%p), replica_groups=[2,4]<=[8], chain_id="3"
  %all-gather.2 = bf16[1,8,12]{2,1,0:T(8,128)} all-gather(%p), replica_groups=[2,4]<=[8], chain_id="3"
  %all-reduce.5 = (f32[3]{0}, f32[5]{0}) all-reduce(%b, %c), replica_groups=mesh['fsdp'=2,'expert'=4] {'fsdp'}
  %ragged.1 = bf16[16,6]{1,0} ragged-all-to-all(%d), replica_groups={{0,1,2,3},{4,5,6,7}}
  %permuted = bf16[8,12]{1,0} collective-permute(%b), source_target_pairs={{0,1},{1,0}}
  %scattered = bf16[2,12]{1,0} reduce-scatter(%b), replica_groups=[2,4]<=[8], dimensions={0}, to_apply=%add
}
"""


def test_collectives_are_read_from_a_program():
    found = [(one.kind, one.shapes, one.size, one.group, one.received) for one in collectives.found(MESSAGES)]
    assert found == [
        ("reduce-scatter", ((8, 12),), 192, 4, 144),
        ("all-gather", ((1, 8, 12),), 192, 4, 144),
        ("all-reduce", ((3,), (5,)), 32, 2, 32),
        ("ragged-all-to-all", ((16, 6),), 192, 4, 144),
        ("collective-permute", ((8, 12),), 192, 1, 192),
        ("reduce-scatter", ((8, 12),), 192, 4, 144),
    ]
    assert collectives.summary(MESSAGES)["all-gather"] == dict(count=1, mib=0.0, largest=(1, 8, 12))


@pytest.mark.parametrize("groups, members", [
    ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups={{0,2,4,6},{1,3,5,7}}", (0, 2, 4, 6)),
    ("replica_groups=mesh['fsdp'=2,'expert'=4] {'fsdp'}", (0, 4)),
    ("source_target_pairs={{0,1},{1,0}}", (0, 1)),
])  # fmt: skip
def test_who_takes_part_is_read_from_each_way_of_writing_it(groups, members):
    line = f"  %one = f32[8]{{0}} all-gather(%p), {groups}, dimensions={{0}}"
    (found,) = collectives.found(f"ENTRY %main (p: f32[8]) -> f32[] {{\n  %p = f32[8]{{0}} parameter(0)\n{line}\n}}\n")
    assert found.members == members


BETWEEN = """
  %token = token[] after-all()
  ROOT %r = (f32[8,6]{1,0}, u32[]{:S(2)}, token[]) recv(%token), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1:3}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
"""


def test_what_hosts_carry_between_slices_is_a_message():
    (found,) = collectives.found(f"ENTRY %main (p: f32[8,6]) -> f32[] {{{BETWEEN}}}\n")
    assert (found.kind, found.slices, found.received) == ("all-reduce", 3, 2 * 4 * 48 * 2 / 3)
    assert one(BETWEEN)["received_by"] == {"all-reduce": 2 * 4 * 48 * 2 / 3}


def test_a_message_crosses_the_axes_along_which_its_members_differ():
    sizes = dict(data=2, fsdp=2, tensor=2)
    some = {(0, 1): ("tensor",), (0, 2): ("fsdp",), (0, 1, 2, 3): ("fsdp", "tensor"), (0, 4): ("data",)}
    assert {members: collectives.axes_of(members, sizes) for members in some} == some


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="begins with ENTRY"):
        hlo.parse("%body (p: f32[]) -> f32[] {\n}\n")
