"""How alike texts are, by BLEU (torchmetrics, which Lightning brings along, so that nothing new has to be kept).

Self-BLEU (Zhu et al., Texygen, arXiv 1802.01886) scores each text with the others as references: 0 where no two share
two words in a row, 1 where all are equal. Up to bigrams here, as answers of two words must count, too. Words are split
as in sacreBLEU's 13a, which does not find the words of Chinese, Japanese or Thai.
"""

from __future__ import annotations

from collections.abc import Sequence

from torchmetrics.functional.text import sacre_bleu_score

_ORDER = 2
# References a text is compared with: more make every text look alike, and cost as much more.
_NUM_OTHERS = 4


def self_bleu(groups: Sequence[Sequence[str]]) -> list[float]:
    """How alike the answers to one prompt are: falls as a policy sharpens, which need not be bad.

    Args:
        groups: [prompts][responses] texts, at least one each.

    Returns:
        [prompts] in [0, 1]: BLEU-2 of the prompt's answers, each with the others as references; 0 for a single answer.
    """
    return [
        _bleu(texts, [[*texts[:k], *texts[k + 1 :]] for k in range(len(texts))]) if len(texts) > 1 else 0.0
        for texts in groups
    ]


def cross_bleu(groups: Sequence[Sequence[str]]) -> list[float]:
    """How alike the answers to different prompts are: an answer that fits every question says nothing about any.

    Args:
        groups: [prompts][responses] texts, at least one each. Give two policies to be compared the same prompts in
            the same order.

    Returns:
        [prompts] in [0, 1]: BLEU-2 of the prompt's answers, each with one answer of each of the next few prompts as
        references; 0 for a single prompt.
    """
    count = min(_NUM_OTHERS, len(groups) - 1)
    if count == 0:
        return [0.0]
    others = [[groups[(b + step) % len(groups)] for step in range(1, count + 1)] for b in range(len(groups))]
    return [
        _bleu(texts, [[other[k % len(other)] for other in neighbours] for k in range(len(texts))])
        for texts, neighbours in zip(groups, others, strict=True)
    ]


def _bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return float(sacre_bleu_score(texts, references, n_gram=_ORDER, tokenize="13a"))
