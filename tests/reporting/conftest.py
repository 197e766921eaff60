import json

import pytest


@pytest.fixture
def run_folder(tmp_path):
    """run_folder(name, metrics, **files) -> a run folder with `eval/round_003/*.json` for each round of the metrics."""

    def run_folder(name="run", metrics=None, **files):
        folder = tmp_path / name
        (folder / "eval").mkdir(parents=True)
        for metric, values in (metrics or {}).items():
            for index, value in values.items():
                path = folder / f"eval/round_{index:03d}/measured.json"
                path.parent.mkdir(exist_ok=True)
                content = json.loads(path.read_text()) if path.is_file() else {}
                path.write_text(json.dumps(content | {metric: value}))
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content)
        return folder

    return run_folder
