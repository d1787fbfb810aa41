"""prompts: each file renders with exactly its own values."""

import pytest

import prompts


@pytest.mark.parametrize("name", prompts.names())
def test_every_prompt_renders_with_its_places_filled(name: str) -> None:
    text = prompts.render(name, **{place: f"<{place}>" for place in prompts.places(name)})
    assert "{{" not in text
    assert all(f"<{place}>" in text for place in prompts.places(name))


def test_the_three_prompts_of_the_loop_are_there() -> None:
    assert prompts.names() == ["distill", "reflect", "tune"]


def test_a_missing_value_is_named() -> None:
    with pytest.raises(prompts.PromptError, match="needs dataset, facts, study_id"):
        prompts.render("distill", backbone="sasrec")


def test_an_unknown_value_is_named() -> None:
    with pytest.raises(prompts.PromptError, match="has no place for colour"):
        prompts.render("reflect", trial_id="t-1", study_id="s-1", facts="", colour="red")


def test_an_unknown_prompt_says_which_there_are() -> None:
    with pytest.raises(prompts.PromptError, match="no prompt 'sing'; there are distill, reflect, tune"):
        prompts.render("sing")
