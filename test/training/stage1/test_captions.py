"""Captions: backends, the file, its report, and tiny random models through the command line."""

import json

import numpy as np
import pytest
import yaml

from segrgbx_core.base.errors import ConfigError, DataError
from segrgbx_core.base.samples import RgbxSample
from segrgbx_core.labels.label_space import VOID
from training.captions import main
from training.data import datasets
from training.data.datasets.labelled_sample import Labelled
from training.stage1.captioners import (
    PAPER_PROMPT,
    CaptionerConfig,
    LabelCaptioner,
    Picture,
    build_captioner,
)
from training.stage1.captions import (
    CONTEXT,
    Caption,
    WordList,
    caption_id,
    count_tokens,
    examine,
    normalised,
    read_captions,
    write_captions,
)

pytestmark = pytest.mark.clip

NAMES = ("road", "traffic sign", "person")
WORDS = ("a", "red", "street", "with", "two", "dogs", "and", "sky")


class Blocks:
    """A few pictures of the synthetic street, whose names depend on the split."""

    native = "synthetic_street"

    def __init__(self, root, split, modality):
        self.modality, self.split = modality, split
        self.reads = 0

    def __len__(self):
        return 3 if self.split == "train" else 2

    @property
    def ids(self):
        return tuple(f"{self.split}_{index}" for index in range(len(self)))

    def __getitem__(self, index):
        self.reads += 1
        labels = np.zeros((20, 30), np.uint8)
        labels[:, : 3 * (index + 1)] = 8
        rgb = np.full((20, 30, 3), 50 * index, np.uint8)
        sample = RgbxSample(rgb, np.full((20, 30), 29000, np.uint16), self.modality)
        return Labelled(sample, labels, self.ids[index])


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    monkeypatch.setitem(datasets.READERS, "blocks", Blocks)
    path = tmp_path / "run.yaml"
    run = {
        "data": [
            {"reader": "blocks", "root": ".", "modality": "thermal"},
            {"reader": "blocks", "root": ".", "modality": "depth"},
        ],
        "captions": str(tmp_path / "captions.jsonl"),
        "run": {"out": str(tmp_path / "out")},
    }
    path.write_text(yaml.safe_dump(run))
    return path


def picture(labels):
    labels = np.asarray(labels, np.uint8)
    return Picture("set/a", np.zeros((*labels.shape, 3), np.uint8), labels, NAMES)


def text_of(labels):
    return LabelCaptioner(CaptionerConfig()).caption([picture(labels)])[0]


def test_labels_name_classes_by_area():
    labels = np.full((10, 100), VOID)
    labels[:, :80] = 0
    labels[:, 80:90] = 2
    labels[0, 95] = 1
    assert text_of(labels) == "a picture of mostly road, some person, a little traffic sign"
    labels[:, :80] = 2
    labels[:, 80:90] = 0
    assert text_of(labels) == "a picture of mostly person, some road, a little traffic sign"
    assert text_of(np.full((2, 2), VOID)) == "a picture without any labelled thing"


def test_labels_list_equal_shares_with_and():
    assert text_of([[0, 1, 2]]) == "a picture of mostly road, traffic sign and person"


def test_file_backend_copies_and_says_what_is_missing(tmp_path):
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"sample": "set/a", "text": "a dog"}\n')
    captioner = build_captioner(CaptionerConfig(backend="file", model=str(path)))
    assert captioner.caption([picture([[0]])]) == ["a dog"]
    assert captioner.origin["revision"].startswith("sha256:")
    path.write_text('{"sample": "set/b", "text": "a dog"}\n')
    captioner = build_captioner(CaptionerConfig(backend="file", model=str(path)))
    with pytest.raises(DataError, match="no text for sample 'set/a'"):
        captioner.caption([picture([[0]])])
    path.write_text('{"sample": "set/b"}\n')
    with pytest.raises(DataError, match="is no caption file"):
        build_captioner(CaptionerConfig(backend="file", model=str(path)))


def test_backends_are_named_and_need_a_model():
    with pytest.raises(ConfigError, match="did you mean 'labels'"):
        build_captioner(CaptionerConfig(backend="lables"))
    with pytest.raises(ConfigError, match="needs model"):
        build_captioner(CaptionerConfig(backend="vlm"))


def test_nothing_is_downloaded_unless_asked():
    config = CaptionerConfig(backend="blip", model="nobody/no-such-model")
    with pytest.raises(ConfigError, match="hub names need download"):
        build_captioner(config)


def test_command_writes_provenance_and_goes_on(run_file, tmp_path, capsys):
    assert main([str(run_file)]) == 0
    printed = capsys.readouterr().out
    assert "5 captions in" in printed
    assert "synthetic_street: 5 captions" in printed
    captions = read_captions(tmp_path / "captions.jsonl")
    assert set(captions) == {f"synthetic_street/{name}" for name in
                             ("train_0", "train_1", "train_2", "val_0", "val_1")}  # fmt: skip
    caption = captions["synthetic_street/train_0"]
    assert caption.backend == "labels"
    assert caption.tokens == count_tokens(caption.text) > 5
    assert "shares" in caption.decoding
    before = (tmp_path / "captions.jsonl").read_bytes()
    lines = before.splitlines(keepends=True)
    (tmp_path / "captions.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:20])
    assert main([str(run_file)]) == 0
    assert (tmp_path / "captions.jsonl").read_bytes() == before


def test_pictures_are_captioned_once_whatever_the_modality(run_file, tmp_path):
    readers = [Blocks("", "train", "thermal"), Blocks("", "train", "depth")]
    captions = write_captions(tmp_path / "c.jsonl", readers, CaptionerConfig())
    assert len(captions) == 3
    assert [reader.reads for reader in readers] == [3, 0]


def test_a_file_keeps_to_one_captioner(run_file, tmp_path, capsys):
    assert main([str(run_file)]) == 0
    assert main([str(run_file), "--seed", "3"]) == 2
    assert "was begun with seed 0, now 3" in capsys.readouterr().err


def test_broken_files_are_named(tmp_path):
    path = tmp_path / "c.jsonl"
    with pytest.raises(DataError, match="write captions with"):
        read_captions(path)
    path.write_text('{"sample": "a", "text": "b", "backend": "file"}\nnothing\n')
    with pytest.raises(DataError, match="line 2 is no caption"):
        read_captions(path)
    line = '{"sample": "a", "text": "%s", "backend": "file"}\n'
    path.write_text(line % "b" + line % "c")
    with pytest.raises(DataError, match="'a' has a second caption"):
        read_captions(path)
    path.write_bytes(b"\xff\xfe caption")
    with pytest.raises(DataError, match=r"c\.jsonl: cannot be read \(.*utf-8"):
        read_captions(path)
    with pytest.raises(DataError, match=r"c\.jsonl: cannot be read \(.*utf-8"):
        WordList(path)


@pytest.mark.parametrize(
    "line",
    [
        "5", "[]", '"text"', "null", "[" * 100_000, "1" * 5000, "{}", '{"sample": "a"}',
        '{"sample": 1, "text": "b", "backend": "c"}',
        '{"sample": "a", "text": null, "backend": "c"}',
        '{"sample": "a", "text": "b", "backend": "c", "tokens": "7"}',
        '{"sample": "a", "text": "b", "backend": "c", "decoding": [1]}',
        '{"sample": "a", "text": "b", "backend": "c", "colour": 1}',
    ],
    ids=range(13),
)  # fmt: skip
def test_a_line_that_is_no_caption_is_one_error(tmp_path, line):
    (tmp_path / "c.jsonl").write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"c\.jsonl: line 1 is no caption \(.{1,90}\)$"):
        read_captions(tmp_path / "c.jsonl")
    with pytest.raises(DataError, match=r"c\.jsonl: is no caption file|has no text for"):
        build_captioner(CaptionerConfig(backend="file", model=str(tmp_path / "c.jsonl"))).caption(
            [Picture("x", np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), ())]
        )


def test_identity_is_what_a_caption_says():
    assert normalised("  A dog,\n RUNS. ") == "a dog, runs"
    assert caption_id("A dog runs.") == caption_id("a  dog runs") != caption_id("a dog ran")
    assert 0 <= caption_id("x") < 2**63


def caption(sample, text):
    return Caption(sample, text, "file", tokens=count_tokens(text))


def test_report_finds_the_papers_two_failures():
    group = [
        caption("mfnet/1", "arafed view of a street at night"),
        caption("mfnet/2", "There are many bikes parked on the side of the street"),
        caption("mfnet/3", "there are many bikes parked on the side of the street."),
        caption("nyu/1", ""),
        caption("nyu/2", "a lamp " * 60),
    ]
    mfnet, nyu = examine(group)
    assert (mfnet.data, mfnet.captions, mfnet.unique, mfnet.cut) == ("mfnet", 3, 2, 0)
    assert mfnet.strange == {"arafed": 1}
    assert (nyu.empty, nyu.cut) == (1, 1)
    text = "\n".join(nyu.lines())
    assert f"more than {CONTEXT} tokens" in text
    assert "1 are empty" in text
    assert "arafed (1)" in "\n".join(mfnet.lines())


@pytest.fixture(scope="module")
def words():
    return WordList()


PLAIN = """pedestrians bicycles crosswalk streetlights sidewalk bollards guardrail kerb
parked buildings overcast leafless cyclists refrigerator bookshelf nightstand whiteboard curved
driving walking motorcycles cloudy pavement car's"""


def test_word_list_knows_street_and_room(words):
    assert [word for word in PLAIN.split() if word not in words] == []
    assert [word for word in ("arafed", "araffe", "xqzt", "blorfing") if word in words] == []


def test_word_list_can_be_sharpened(tmp_path):
    (tmp_path / "words").write_text("Arafed\n")
    assert "arafed" in WordList(tmp_path / "words")
    with pytest.raises(DataError, match="cannot be read"):
        WordList(tmp_path / "missing")


def tokenizer(folder):
    """A word-level tokenizer without a download."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "<image>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", bos_token="[BOS]",
        eos_token="[EOS]", extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def save(model, folder):
    model.generation_config.suppress_tokens = [0, 1, 2, 3, 4]  # words only, to the longest length
    model.save_pretrained(folder)


SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
SQUARE = {"height": 16, "width": 16}


@pytest.fixture(scope="module")
def tiny_blip(tmp_path_factory):
    pytest.importorskip("transformers")
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_blip import BlipImageProcessor

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_blip")
    words = tokenizer(folder)
    ids = {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    config = BlipConfig(
        text_config={**SMALL, **ids, "vocab_size": len(words), "encoder_hidden_size": 32},
        vision_config={**SMALL, "image_size": 16, "patch_size": 8},
    )
    save(BlipForConditionalGeneration(config), folder)
    BlipProcessor(BlipImageProcessor(size=SQUARE), words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny_llava(tmp_path_factory):
    pytest.importorskip("transformers")
    import torch
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("tiny_llava")
    words = tokenizer(folder)
    template = (
        "{% for message in messages %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}{% endfor %}"
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**SMALL, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            **SMALL, vocab_size=len(words), num_key_value_heads=2, bos_token_id=2, eos_token_id=3
        ),
        image_token_index=4, image_token_id=4, image_seq_length=4,
        vision_feature_layer=-1,
    )  # fmt: skip
    save(LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE)
    LlavaProcessor(
        images, words, patch_size=8, vision_feature_select_strategy="default",
        chat_template=template, image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("backend", ["blip", "vlm"])
def test_tiny_models_through_the_command_line(backend, run_file, tmp_path, request, capsys):
    folder = request.getfixturevalue({"blip": "tiny_blip", "vlm": "tiny_llava"}[backend])
    command = [str(run_file), "--backend", backend, "--model", str(folder), "--device", "cpu",
               "--max-new-tokens", "6", "--batch-size", "2"]  # fmt: skip
    assert main(command) == 0
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert len(lines) == 5
    for line in lines:
        assert set(line["text"].split()) <= set(WORDS)
        assert line["prompt"] == (PAPER_PROMPT if backend == "vlm" else "")
        assert line["decoding"] == {"do_sample": False, "max_new_tokens": 6}
        assert line["revision"].startswith("sha256:")
        assert line["model"] == folder.name
        assert line["text"]
    first = (tmp_path / "captions.jsonl").read_bytes()
    (tmp_path / "captions.jsonl").unlink()
    assert main(command) == 0
    assert (tmp_path / "captions.jsonl").read_bytes() == first


def test_report_only_needs_no_captioner(run_file, capsys):
    assert main([str(run_file)]) == 0
    assert main([str(run_file), "--report-only", "--backend", "vlm"]) == 0
    assert "words on average" in capsys.readouterr().out
