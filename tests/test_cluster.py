"""Commands that send their cases to a real Dask cluster.

Two worker processes on 127.0.0.1, standing in another folder.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hemseg_cli.config import Config, load
from hemseg_cli.config.schema import ComputeConfig, PredictConfig
from hemseg_cli.core.cases import Case, read_cases, write_cases
from hemseg_cli.dataset.conversion.convert import convert
from hemseg_cli.dataset.labels.fetch import fetch_labels
from hemseg_cli.dataset.phantom.dataset import make_phantom
from hemseg_cli.evaluation.evaluate import evaluate
from hemseg_cli.imaging.nifti import Volume, read_volume, write_volume
from hemseg_cli.inference.predict import predict
from tests.inference.small_model import config_in, make_run, scan, truth

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")
QUIET = PredictConfig(previews=False)
SHAPE = (24, 20, 6)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Forked off one server that has imported torch and MONAI.

    Each worker by itself would take twice as long for that.
    """
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["hemseg_cli.inference.case", "monai.networks.nets"]
    )
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=50,
        ) as made,
    ):
        yield made


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run."""
    make_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _inputs(count: int) -> list[Path]:
    for number in range(count):
        write_volume(Path(f"in/s{number}.nii.gz"), scan(SHAPE, seed=number))
    return [Path("in")]


def _config(cluster: Any) -> Config:
    return config_in(
        Path(),
        predict=QUIET,
        compute=ComputeConfig(scheduler=cluster.scheduler_address, device="cpu"),
    )


def _outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_predict_on_a_cluster_and_again_when_the_run_is_trained_anew(
    cluster: Any, work: Path
) -> None:
    inputs = _inputs(4)
    (work / "in/bad.nii.gz").write_text("no image")
    result = predict(_config(cluster), inputs=inputs, out=Path("out"))
    ml = truth(SHAPE).sum() * 5**3 / 1000
    assert {row.scan: row.predicted_ml for row in result.predicted} == dict.fromkeys(
        ["s0", "s1", "s2", "s3"], pytest.approx(ml)
    )
    assert list(result.failures) == ["bad"]
    assert "a text file" in result.failures["bad"]
    for number in range(4):
        np.testing.assert_array_equal(
            read_volume(work / f"out/s{number}_mask.nii.gz").array, truth(SHAPE)
        )
    make_run(work, shift=0.6)  # trained anew: the workers, which live on, take the new weights
    again = predict(_config(cluster), inputs=inputs, out=Path("out"))
    assert {row.scan: row.predicted_ml for row in again.predicted} == dict.fromkeys(
        ["s0", "s1", "s2", "s3"], 0.0
    )


def test_nothing_is_lost_when_a_worker_is_killed_while_it_predicts(
    cluster: Any, work: Path
) -> None:
    pids = {nanny.pid for nanny in cluster.workers.values()}

    def kill() -> None:
        while not list(work.glob("out/.cases/*.json")):
            time.sleep(0.001)
        os.kill(min(pids), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    result = predict(_config(cluster), inputs=_inputs(8), out=Path("out"))
    killer.join()
    assert not result.failed
    assert [row.scan for row in result.predicted] == [f"s{number}" for number in range(8)]
    here = predict(config_in(work, predict=QUIET), inputs=[Path("in")], out=Path("here"))
    assert result.predicted == here.predicted
    assert _outputs(work / "out") == _outputs(work / "here")
    assert len(_outputs(work / "out")) == 8 + 2  # masks, volumes.csv and lesions.csv


def test_evaluate_on_a_cluster_gives_what_one_process_gives(cluster: Any, work: Path) -> None:
    rows = []
    for number in range(4):
        mask = truth(SHAPE)
        mask[: 8 + number] = False
        write_volume(
            Path(f"data/hemseg-200/test/label/s{number}.nii.gz"),
            Volume(truth(SHAPE).astype(np.uint8), scan(SHAPE).affine),
        )
        write_volume(
            Path(f"runs/run/predictions/test/s{number}.nii.gz"),
            Volume(mask.astype(np.uint8), scan(SHAPE).affine),
        )
        rows.append(Case(f"s{number}", f"p{number}", "test", label=f"test/label/s{number}.nii.gz"))
    write_cases(Path("data/hemseg-200/cases.csv"), rows)
    tables = []
    for config in (config_in(Path(), compute=ComputeConfig(workers=0)), _config(cluster)):
        evaluate(config)
        tables.append((work / "runs/run/evaluation/test/cases.csv").read_text())
    assert tables[0] == tables[1]
    assert len(tables[1].splitlines()) == 5


def test_convert_on_a_cluster_gives_what_one_process_gives(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scans = make_phantom(
        Path("source"), seed=2, patients=3, matrix=24, slices=(5, 7), smallest_ml=3.0
    )
    (tmp_path / "source/stage_2_train" / f"ID_{scans[0].slices[2]}.dcm").unlink()
    images = []
    for root, compute in (
        ("here", {"compute.workers": 0}),
        ("there", {"compute.scheduler": cluster.scheduler_address}),
    ):
        options = {
            "data.root": root,
            "data.dataset": "phantom",
            "fetch.source": "source",
            "convert.dicom": "source",
            **compute,
        }
        config = load(None, options=options, environ={})
        fetch_labels(config)
        result = convert(config)
        assert list(result.failures) == [scans[0].scan]
        assert result.converted == len(scans) - 1
        images.append(
            {
                case.scan: case.image and (config.data.folder / case.image).read_bytes()
                for case in read_cases(config.data.cases_file)
            }
        )
    assert images[0] == images[1]
    assert sum(bool(image) for image in images[1].values()) == len(scans) - 1
