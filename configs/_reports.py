"""What objectives of images and reports share: the texts, the tower that reads them, presets."""

from typing import Any

from ml_collections.config_dict import ConfigDict, create

from configs import common


def bioclinicalbert(
    config: ConfigDict, max_tokens: int, sections: tuple[str, ...] = ("findings", "impression")
) -> dict[str, Any]:
    """Has reports cut for BioClinicalBERT, BERT's base; returns the fields of that tower."""
    config.data.reports = create(
        sections=sections, max_tokens=max_tokens, tokenizer="", vocabulary=28_996
    )
    words = config.data.reports.get_ref("vocabulary")
    shape = dict(vocabulary=words, width=768, num_blocks=12, positions=512)
    return shape | dict(dtype="bfloat16", weights="", frozen_layers=0)


def own_words(config: ConfigDict, vocabulary: int, width: int, num_blocks: int) -> None:
    """A text encoder that starts from nothing, with a vocabulary made of the reports."""
    config.data.reports.vocabulary = vocabulary
    config.objective.text.update(width=width, num_blocks=num_blocks, frozen_layers=0)


def for_minutes(config: ConfigDict, max_tokens: int) -> None:
    """The preset cpu of towers that have own_words."""
    common.for_minutes(config)
    config.objective.text.dtype = "float32"
    config.data.reports.max_tokens = max_tokens


def slower_text(config: ConfigDict) -> None:
    """A BERT with its norms behind the shortcuts bears less than the ResNet."""
    config.optimizer.groups = create(text=dict(match=("^text/",), learning_rate=5e-4))


def demo(config: ConfigDict, max_tokens: int) -> None:
    """The preset demo, on top of cpu.

    The impression says all findings in one sentence, with their sides, which mirroring would turn
    round.
    """
    common.demo(config)
    config.data.reports.update(vocabulary=512, max_tokens=max_tokens, sections=("impression",))
    config.views.a.flip = 0.0
    config.optimizer.learning_rate = 1e-3
