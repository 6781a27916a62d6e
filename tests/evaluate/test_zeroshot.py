"""Zero-shot classification: the classifier, the evaluation, the bundled lists."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnclip import cli, pipeline
from cnclip.assets import asset_path
from cnclip.errors import DatasetError, InvalidInputError
from cnclip.evaluate import Classified, ZeroShotClassifier, zeroshot
from cnclip.evaluate.texts import LABELS, TEMPLATES, bundled_labels, read_labels, read_templates
from cnclip.pipelines import MultiModalEmbeddingPipeline

CLASSES = {
    "apple": ("苹果", ["1f34e", "1f34f"]),
    "car": ("汽车", ["1f697", "1f699"]),
    "cat": ("猫", ["1f408", "1f431", "1f63a"]),
    "sun": ("太阳", ["2600", "1f31e"]),
    "dragon": ("龙", ["1f409"]),
    "pizza": ("披萨", ["1f355"]),
}


@pytest.fixture(scope="module")
def model() -> MultiModalEmbeddingPipeline:
    return pipeline(model="emoji-cn", device="cpu")


def image(code: str) -> Path:
    return asset_path("gallery") / f"{code}.png"


def files_of(key: str) -> list[Path]:
    return [image(code) for code in CLASSES[key][1] if image(code).exists()]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for key in CLASSES:
        (tmp_path / "data" / "test" / key).mkdir(parents=True)
        for file in files_of(key):
            shutil.copy(file, tmp_path / "data" / "test" / key)
    return tmp_path / "data"


def chinese() -> list[str]:
    return [CLASSES[key][0] for key in sorted(CLASSES)]


def test_scores_are_those_of_the_definition(model: MultiModalEmbeddingPipeline) -> None:
    templates = ["{}", "一张{}的照片"]
    classifier = ZeroShotClassifier(["猫", "狗"], model, templates)
    texts = model.forward({"text": ["猫", "一张猫的照片", "狗", "一张狗的照片"]})["text_embedding"]
    means = np.stack([texts[:2].mean(0), texts[2:].mean(0)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(classifier.class_vectors, means, atol=1e-6)
    vector = model.forward({"img": image("1f408")})["img_embedding"]
    cosines = vector @ means.T
    np.testing.assert_allclose(classifier.cosines(image("1f408")), cosines, atol=1e-6)
    np.testing.assert_allclose(classifier.cosines(vector * 3), cosines, atol=1e-6)
    powers = np.exp(cosines / model.model.temperature)
    expected = powers / powers.sum()
    np.testing.assert_allclose(classifier.probabilities(vector), expected, atol=1e-5)
    (found,) = classifier(image("1f408"))
    assert found.label == "猫"
    assert found.probability == pytest.approx(expected.max(), abs=1e-5)


def test_none_of_these(model: MultiModalEmbeddingPipeline) -> None:
    cat = image("1f408")
    assert ZeroShotClassifier(["披萨", "汽车"], model, "plain")(cat)[0].label is not None
    others = ZeroShotClassifier(["披萨", "汽车"], model, "plain", others=["猫", "狗"])
    (found,) = others(cat)
    assert found.label is None
    assert found.probability == pytest.approx(1 - others.probabilities(cat).sum(), abs=1e-5)
    strict = ZeroShotClassifier(["披萨", "汽车"], model, "plain", min_cosine=0.99)
    assert strict([cat, cat])[1].label is None
    known = ZeroShotClassifier(["猫", "汽车"], model, "plain", others=["披萨"])
    assert isinstance(known(cat)[0], Classified)
    assert known(cat)[0].label == "猫"


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "labels: expected at least one label"),
        ("猫", {}, "expected a list"),
        (["猫", "猫"], {}, "duplicate name '猫'"),
        (["猫", " "], {}, r"labels\[1\]"),
        (["猫", 5], {}, r"labels\[1\]"),
        (["猫"], {"templates": ["一张照片"]}, "expected a text with one {}"),
        (["猫"], {"templates": []}, "templates: expected at least one"),
        (["猫"], {"templates": "no/such/file"}, "neither a bundled name nor a readable file"),
        (["猫"], {"others": ["猫"]}, "'猫' is among the labels"),
    ],
)
def test_wrong_classes(
    labels: list[str],
    options: dict[str, object],
    message: str,
    model: MultiModalEmbeddingPipeline,
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ZeroShotClassifier(labels, model, **options)  # type: ignore[arg-type]


def test_a_classifier_in_words(model: MultiModalEmbeddingPipeline) -> None:
    one = ZeroShotClassifier(["猫"], model, "plain")
    assert repr(one) == "ZeroShotClassifier(1 class: 猫; 1 template)"
    six = ZeroShotClassifier(list("猫狗牛羊马鸡"), model, ["{}", "一张{}"])
    assert repr(six) == "ZeroShotClassifier(6 classes: 猫, 狗, 牛, 羊, 马, ...; 2 templates)"


def test_names_are_normalized_unless_asked_otherwise(model: MultiModalEmbeddingPipeline) -> None:
    curly, straight = (model.forward({"text": t})["text_embedding"] for t in ("“猫”", '"猫"'))
    assert not np.allclose(curly, straight, atol=1e-3)
    for normalize, wanted in ((True, straight), (False, curly)):
        classifier = ZeroShotClassifier(["“猫”"], model, "plain", normalize=normalize)
        np.testing.assert_allclose(classifier.class_vectors, wanted, atol=1e-6)


def test_wrong_embeddings(model: MultiModalEmbeddingPipeline) -> None:
    classifier = ZeroShotClassifier(["猫"], model, "plain")
    for rows in (np.ones((1, 3), np.float32), np.zeros((1, 128), np.float32)):
        with pytest.raises(InvalidInputError, match="embeddings"):
            classifier.probabilities(rows)
    with pytest.raises(InvalidInputError, match="got None"):
        classifier.probabilities(None)


def test_folders_of_classes(
    folders: Path, tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    report = zeroshot(
        folders, model, split="test", labels=chinese(), templates="plain", output=output
    )
    classifier = ZeroShotClassifier(chinese(), model, "plain")
    right = total = 0
    shares = []
    for index, key in enumerate(sorted(CLASSES)):
        found = classifier.cosines(files_of(key)).argmax(axis=1)
        assert report.confusion[index].tolist() == np.bincount(found, minlength=6).tolist()
        right += int((found == index).sum())
        total += len(found)
        shares.append(100 * float((found == index).mean()))
    assert report.images == total == int(report.confusion.sum())
    assert report.top1 == pytest.approx(100 * right / total)
    assert report.mean_per_class == pytest.approx(np.mean(shares))
    assert list(report.per_class.values()) == pytest.approx(shares)
    assert report.top5 is not None
    assert report.top1 <= report.top5 <= 100
    saved = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert saved["top1"] == report.top1
    assert saved["skipped"] == 0
    with Image.open(output / "confusion.png") as drawn:
        assert drawn.format == "PNG"
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 10


def test_elevaters_layouts(
    folders: Path, tmp_path: Path, model: MultiModalEmbeddingPipeline
) -> None:
    expected = zeroshot(folders, model, split="test", labels=chinese())
    elevater = tmp_path / "elevater"
    (elevater / "test").mkdir(parents=True)
    for index, key in enumerate(sorted(CLASSES)):
        shutil.copytree(folders / "test" / key, elevater / "test" / f"{index:03}")
    (elevater / "label_cn.txt").write_text("\n".join(chinese()) + "\n", encoding="utf-8")
    assert zeroshot(elevater, model, split="test").confusion.tolist() == expected.confusion.tolist()

    with zipfile.ZipFile(elevater / "images.zip", "w") as archive:
        for file in elevater.glob("test/*/*"):
            archive.write(file, file.relative_to(elevater).as_posix())
    for prefix in ("", "images.zip@"):
        listing = elevater / "list.txt"
        listing.write_text(
            "".join(
                f"{prefix}{file.relative_to(elevater).as_posix()} {int(file.parent.name)}\n"
                for file in elevater.glob("test/*/*")
            )
        )
        found = zeroshot(listing, model)
        assert found.confusion.tolist() == expected.confusion.tolist()


def test_unusable_images_are_named(
    folders: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folders / "test" / "cat" / "broken.png").write_bytes(b"no image")
    labels = tmp_path / "labels.tsv"
    labels.write_text("".join(f"{key}\t{name}\n" for key, (name, _) in CLASSES.items()))
    arguments = ["eval", "zeroshot", str(folders), "--split", "test", "--labels", str(labels)]
    arguments += ["--model", "emoji-cn"]
    assert cli.main(arguments) == 1
    captured = capsys.readouterr()
    assert "cat/broken.png: " in captured.err
    assert "top-1" in captured.out
    assert cli.main([*arguments, "--strict"]) == 2
    (folders / "test" / "cat" / "worse.png").write_bytes(b"no image")
    monkeypatch.setattr("cnclip.cli.evaluate.MAX_PROBLEMS", 1)
    assert cli.main([*arguments, "-o", str(tmp_path / "out")]) == 1
    *_, last, counted = capsys.readouterr().err.splitlines()
    assert "cat/broken.png: " in last
    assert counted == f"and 1 more; all are in {tmp_path / 'out' / 'report.json'}"
    saved = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert len(saved["problems"]) == 2
    monkeypatch.undo()
    listing = tmp_path / "list.txt"
    listing.write_text(f"{image('1f408')} 1\nnowhere.png 0\n{image('1f409')} 9\n")
    names = tmp_path / "names.txt"
    names.write_text("狗\n猫\n", encoding="utf-8")
    arguments = ["eval", "zeroshot", str(listing), "--labels", str(names), "--model", "emoji-cn"]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "list.txt:2: " in error
    assert "list.txt:3: expected an image and a class, found '9'" in error


def test_no_data_sets(folders: Path, tmp_path: Path, model: MultiModalEmbeddingPipeline) -> None:
    (tmp_path / "empty").mkdir()
    listed = tmp_path / "list.txt"
    listed.write_text("gone.png 0\nlist.txt 0\n")
    for path, options, message in (
        (tmp_path / "nowhere", {}, "no such data set"),
        (tmp_path / "empty", {}, "has no folders"),
        (folders, {}, "has the splits test: choose one"),
        (folders, {"split": "valid"}, "has no folder 'valid'"),
        (folders, {"split": "test", "labels": ["猫"]}, "6 folders, but 1 labels"),
        (folders, {"split": "test", "labels": "cifar10"}, "no label for the folder 'apple'"),
        (listed, {}, r"list\.txt: a list of images requires labels"),
        (listed, {"labels": ["猫"]}, r"no image can be used: list\.txt:1: gone\.png: no such file"),
    ):
        with pytest.raises(DatasetError, match=message):
            zeroshot(path, model, **options)  # type: ignore[arg-type]


def test_a_file_of_labels_names_the_classes_of_a_list(
    model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.tsv"
    labels.write_text("dog\t狗\ncat\t猫\n", encoding="utf-8")
    shutil.copy(files_of("cat")[0], tmp_path / "cat.png")
    (tmp_path / "list.txt").write_text("cat.png 1\n")
    report = zeroshot(tmp_path / "list.txt", model, labels=labels)
    assert (report.labels, report.per_class) == (["狗", "猫"], {"狗": None, "猫": 100.0})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("cat\t猫\n狗\n", "label 2: expected 'folder TAB name'"),
        ("cat\t猫\ndog\t \t狗\n", "label 2: expected 'folder TAB name'"),
        ("cat\t猫\n\ncat\t狗\n", "has a folder twice"),
        ("猫\n\0\n", r"labels\.tsv:2: has a NUL byte"),
    ],
)
def test_files_of_labels_that_cannot_be_used(content: str, message: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.tsv"
    labels.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidInputError, match=message) as raised:
        read_labels(labels)
    assert "labels.tsv" in str(raised.value)


def test_bundled_labels() -> None:
    counts = {"cifar10": 10, "cifar100": 100, "caltech101": 102, "imagenet": 1000}
    for name in LABELS:
        labels = bundled_labels(name)
        assert len(labels) == counts[name]
        assert len(set(labels.values())) == len(labels)
        assert all(key == key.strip() and value == value.strip() for key, value in labels.items())
    assert bundled_labels("cifar10")["truck"] == "卡车"
    assert list(bundled_labels("cifar100"))[99] == "worm"
    assert list(bundled_labels("caltech101")) == sorted(bundled_labels("caltech101"))


def test_bundled_templates() -> None:
    for name in TEMPLATES:
        templates = read_templates(name)
        assert len(set(templates)) == len(templates)
        assert all(len(template) < 40 for template in templates)
    assert read_templates("一张{}") == ["一张{}"]


def test_a_missing_image_of_a_list_is_named(
    model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    shutil.copy(files_of("cat")[0], tmp_path / "cat.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("gone.png 0\nbad.png 0\ncat.png 0\n")
    report = zeroshot(tmp_path / "list.txt", model, labels=["猫", "狗"])
    assert [str(problem).partition(" cannot")[0] for problem in report.problems] == [
        "list.txt:1: gone.png: no such file",
        "list.txt:2: bad.png:",
    ]


def test_a_class_of_thousands_of_digits_is_a_problem_of_its_line(
    model: MultiModalEmbeddingPipeline, tmp_path: Path
) -> None:
    shutil.copy(files_of("cat")[0], tmp_path / "cat.png")
    (tmp_path / "list.txt").write_text("cat.png 0\ncat.png " + "9" * 5000 + "\n")
    report = zeroshot(tmp_path / "list.txt", model, labels=["猫", "狗"])
    assert [problem.where.line for problem in report.problems] == [2]
