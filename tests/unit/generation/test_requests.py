"""Keys, seeds and system turns of what is asked."""

from __future__ import annotations

from collections.abc import Callable

from raykd import schema
from raykd.config.generation import GenerationConfig
from raykd.generation.requests import Prompt, as_table, requests

MakeGeneration = Callable[..., GenerationConfig]
DRAWN = {"temperature": 1.0}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def texts(*given: str) -> list[Prompt]:
    return [Prompt(i, None, text) for i, text in enumerate(given)]


def test_a_request_is_known_by_content_seed_and_sample(generation: MakeGeneration) -> None:
    two = generation(sampling=DRAWN, num_samples=2)
    here = list(requests(texts("a", "b"), two, 5))
    there = list(requests([Prompt(8, None, "b", gold="x")], two, 5))
    assert len({one.key for one in here}) == 4
    assert [one.key for one in there] == [one.key for one in here[2:]]
    assert [one.seed for one in there] == [one.seed for one in here[2:]]
    for other in (
        requests(texts("a", "b"), two, 6),
        requests([Prompt(i, user(t), None) for i, t in enumerate("ab")], two, 5),
        requests(texts("c", "d"), two, 5),
    ):
        assert not {one.key for one in here} & {one.key for one in other}
    own = generation(sampling=DRAWN, num_samples=2, seed=5)
    assert [one.key for one in requests(texts("a", "b"), own, 7)] == [one.key for one in here]


def test_what_is_not_drawn_is_the_same_for_every_seed(generation: MakeGeneration) -> None:
    greedy = generation()
    [one] = requests(texts("a"), greedy, 1)
    [other] = requests(texts("a"), greedy, 2)
    assert one == other


def test_equal_prompts_are_of_one_group(generation: MakeGeneration) -> None:
    found = list(requests(texts("a", "b", "a"), generation(), 0))
    assert [one.group for one in found] == [0, 1, 0]
    own = [Prompt(0, None, "a", group=7), Prompt(1, None, "b", group=7)]
    assert [one.group for one in requests(own, generation(), 0)] == [7, 7]


def test_a_system_turn_is_put_where_there_is_none(generation: MakeGeneration) -> None:
    config = generation(system_prompt="be kind", as_chat=True)
    kind, own = ({"role": "system", "content": text} for text in ("be kind", "be brief"))
    prompts = [Prompt(0, user("a"), None), Prompt(1, [own, *user("b")], None)]
    one, other = requests(prompts, config, 0)
    assert one.messages == one.read == [kind, *user("a")]
    assert other.messages == other.read == [own, *user("b")]
    assert other.asked == "b"
    unsaid = generation(system_prompt="be kind", keep_system_prompt=False, as_chat=True)
    one, other = requests(prompts, unsaid, 0)
    assert (one.messages, one.read) == ([kind, *user("a")], user("a"))
    assert other.messages == other.read == [own, *user("b")]


def test_examples_are_shown_to_the_teacher(generation: MakeGeneration) -> None:
    shown = {"user": "1 + 1?", "assistant": "2"}
    turns = [{"role": role, "content": content} for role, content in shown.items()]
    own = {"role": "system", "content": "be brief"}
    prompts = [Prompt(0, [own, *user("a")], None), Prompt(1, user("b"), None)]
    one, other = requests(prompts, generation(examples=[shown], as_chat=True), 0)
    assert (one.messages, one.read) == ([own, *turns, *user("a")], [own, *user("a")])
    assert (other.messages, other.read) == ([*turns, *user("b")], user("b"))
    kept = generation(examples=[shown], keep_examples=True, system_prompt="be kind", as_chat=True)
    [one] = requests(prompts[1:], kept, 0)
    assert one.read == one.messages
    assert [turn["role"] for turn in one.read or []] == ["system", "user", "assistant", "user"]


def test_one_of_several_system_turns_is_drawn(generation: MakeGeneration) -> None:
    config = generation(system_prompt=["x", "y", "z"], as_chat=True)
    prompts = [Prompt(i, user(f"question {i}"), None) for i in range(300)]
    drawn = [(one.messages or [])[0]["content"] for one in requests(prompts, config, 0)]
    assert all(70 < drawn.count(each) < 130 for each in "xyz")
    again = [(one.messages or [])[0]["content"] for one in requests(prompts, config, 0)]
    assert drawn == again
    other = [(one.messages or [])[0]["content"] for one in requests(prompts, config, 1)]
    assert drawn != other


def test_the_table_is_what_engines_take(generation: MakeGeneration) -> None:
    found = list(requests([Prompt(4, user("a"), None), Prompt(5, None, "b")], generation(), 0))
    table = as_table(found)
    assert table.schema.equals(schema.PROMPTS)
    assert table.column("messages").to_pylist() == [user("a"), None]
    assert table.column("text").to_pylist() == [None, "b"]
    assert all(0 <= seed < 2**63 for seed in table.column("seed").to_pylist())
