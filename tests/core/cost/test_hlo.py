"""`hlo` promises to read every form in which XLA writes what it counts; the texts below are as XLA prints them."""

import pytest

from optkit.core.cost import hlo

HEADER = "HloModule jit_step, is_scheduled=true, num_partitions=8"


def work(*lines, computations="", lowered_bits=None):
    body = "\n".join(f"  {line}" for line in lines)
    text = f"{HEADER}\n{computations}\nENTRY %main (p: f32[64]) -> f32[64] {{\n{body}\n}}\n"
    return hlo._Program(text, lowered_bits or {}).work()


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("{{0,1,2,3,4,5,6,7}}", 8),
        ("{{0,4,1,5},{2,6,3,7}}", 4),
        ("{}", 8),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,2,2]T(0,2,1)", 2),
        ("mesh['x'=4,'y'=2] {'x'}", 4),
        ("mesh['a'=2,'b'=2,'c'=2] {'c','a'}", 4),
        ("mesh['x'=8] {'x':(1)2}", 2),
        ("mesh['x'=8] {'x':(2)4}", 4),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2], device_ids=([2,4]T(1,0)) {'axis_0'}", 4),
    ],
)
def test_every_form_of_groups(groups, size):
    sent = work(
        "%p = f32[64]{0} parameter(0)",
        f"ROOT %r = f32[64]{{0}} all-reduce(%p), channel_id=1, replica_groups={groups}, use_global_device_ids=true, "
        'to_apply=%add, metadata={op_name="jit(step)/psum" stack_frame_id=6}',
    ).sent
    assert sent == {"all-reduce": 2 * (size - 1) / size * 256}


def test_asynchronous_pairs_count_once():
    found = work(
        "%p = f32[64]{0:T(128)} parameter(0)",
        "%r = f32[64]{0:T(128)} all-reduce-start(%p), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add",
        "%r.1 = f32[64]{0:T(128)} all-reduce-done(%r)",
        "%g = (f32[64]{0:T(128)}, f32[512]{0:T(128)S(1)}) all-gather-start(%r.1), replica_groups=[1,8]<=[8]",
        "%g.1 = f32[512]{0:T(128)S(1)} all-gather-done(%g)",
        "%c = (f32[64]{0}, f32[64]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%r.1), "
        "source_target_pairs={{0,1},{1,0}}",
        "%c.1 = f32[64]{0} collective-permute-done(%c)",
        "%s = ((f32[512]{0}), f32[64]{0}) async-start(%g.1), calls=%scatter",
        "ROOT %s.1 = f32[64]{0} async-done(%s), calls=%scatter",
        computations="""
%scatter (q: f32[512]) -> f32[64] {
  %q = f32[512]{0} parameter(0)
  ROOT %t = f32[64]{0} reduce-scatter(%q), replica_groups={}, dimensions={0}, to_apply=%add
}
""",
    )
    assert found.sent == {
        "all-reduce": 2 * 7 / 8 * 256,
        "all-gather": 7 * 256,
        "collective-permute": 256,
        "reduce-scatter": 7 / 8 * 512 * 4,
    }


def test_an_all_to_all_of_one_operand_or_many_sends_the_same():
    one = work(
        "%p = bf16[64]{0} parameter(0)",
        "ROOT %r = bf16[64]{0} all-to-all(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}",
    )
    many = work(
        "%p = bf16[32]{0} parameter(0)",
        "%q = bf16[32]{0} parameter(1)",
        "ROOT %r = (bf16[32]{0}, /*index=1*/bf16[32]{0}) all-to-all(%p, /*index=1*/%q), replica_groups={{0,1},{2,3}}",
    )
    assert one.sent == {"all-to-all": 7 / 8 * 128}
    assert many.sent == {"all-to-all": 1 / 2 * 128}


@pytest.mark.parametrize(
    ("pairs", "sent"),
    [
        ("{{0,1},{1,0}}", {"collective-permute": 256}),
        ("{{0,0},{1,1}}", {}),
        ("{{0,0},{1,2}}", {"collective-permute": 256}),
    ],
)
def test_what_a_device_sends_to_itself_is_not_sent(pairs, sent):
    lines = (
        "%p = f32[64]{0} parameter(0)",
        "ROOT %r = f32[64]{0} collective-permute(%p), source_target_pairs=" + pairs,
    )
    assert work(*lines).sent == sent


def test_groups_of_one_device_send_nothing():
    lines = (
        "%p = f32[64]{0} parameter(0)",
        "ROOT %r = f32[64]{0} all-reduce(%p), replica_groups={{0},{1}}, to_apply=%a",
    )
    assert work(*lines).sent == {}


def test_both_spellings_of_a_conditional():
    branches = """
%big (q: f32[64]) -> f32[64] {
  %q = f32[64]{0} parameter(0)
  ROOT %t = f32[64]{0} all-reduce(%q), replica_groups={}, to_apply=%add
}

%small (q: f32[64]) -> f32[64] {
  %q = f32[64]{0} parameter(0)
  ROOT %t = f32[64]{0} collective-permute(%q), source_target_pairs={{0,1},{1,0}}
}
"""
    for attributes in (
        "branch_computations={%big, %small}",
        "true_computation=%big, false_computation=%small",
    ):
        found = work(
            "%p = f32[64]{0} parameter(0)",
            "%b = pred[] constant(true)",
            f"ROOT %r = f32[64]{{0}} conditional(%b, %p, %p), {attributes}",
            computations=branches,
        )
        assert found.sent == {}
        assert found.sent_when_taken == {"all-reduce": 2 * 7 / 8 * 256, "collective-permute": 256}


def test_products_that_a_gpu_compiler_hands_to_a_library_still_count():
    found = work(
        "%a = f32[16,32]{1,0} parameter(0)",
        "%b = f32[32,8]{1,0} parameter(1)",
        '%r = (f32[16,8]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config='
        '{"gemm_backend_config":{"alpha_real":1,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
        '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]}}}',
        "ROOT %t = f32[16,8]{1,0} get-tuple-element(%r), index=0",
    )
    assert found.flops == 2 * 16 * 32 * 8
    assert found.library_calls == {}


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("bf16[8,4]", 16),
        ("f8e4m3fn[8]", 8),
        ("s4[2]", 4),
        ("pred[]", 8),
        ("c64[3]", 64),
        ("i1", 8),
        ("complex<f32>", 64),
    ],
)
def test_widths_of_elements(name, bits):
    assert hlo._bits(name) == bits
