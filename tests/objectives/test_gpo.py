import pytest

from sppo_lightning.errors import ConfigError
from sppo_lightning.objectives import GPO


def test_missing_scores_are_refused(golden):
    with pytest.raises(ConfigError, match=r"GPO needs .*score_R.*SPPO"):
        GPO()(golden())
