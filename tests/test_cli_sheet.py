"""`yandexart sheet`: the pictures of a folder on one page, and in one JPEG."""

import base64
import io
import json
import re
import shlex
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import PIL.Image
import pytest

from tests.foreign import jpeg
from tests.test_cli import printed, run
from yandexart_grpc.batch.origin import Origin, commented
from yandexart_grpc.cli.sheet_jpeg import FONTS, font_of
from yandexart_grpc.cli.tiles import MARK, MOST, SIDE, Tile, tiles
from yandexart_grpc.server import Embedded

PICTURE = jpeg()
HOSTILE = "</dd><script>alert('x')</script> & \"quotes\" $HOME `id` 'рыжий кот'"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test works in an empty folder, and a cloud folder pays."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YC_FOLDER_ID", "folder")
    (tmp_path / "pictures").mkdir()
    return tmp_path


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each of these tags."""
        return [attributes for name, attributes in self.tags if name == tag]


def page() -> Page:
    """The sheet of the folder."""
    assert run("sheet", "pictures", "--force").exit_code == 0
    return Page(Path("pictures/sheet.html").read_text(encoding="utf-8"))


def commands(found: Page) -> list[str]:
    """The commands of a page, as a person would copy them."""
    return [text for text in found.texts if text.startswith("yandexart generate ")]


class TestPage:
    def test_a_picture_of_generate_has_the_command_that_makes_it_again(self, server: Embedded) -> None:
        """Copied into a shell, it brings the same picture, whatever stands in the prompt."""
        arguments = ["--endpoint", server.endpoint, "--no-metadata"]
        made = printed(
            run("generate", HOSTILE, "-o", "pictures/1", "--seed", "7", "--aspect-ratio", "16:9", "--json", *arguments[:2]).stdout
        )
        found = page()
        for text in (HOSTILE, "7", "art://folder/yandex-art/latest", made["operation_id"], "1.jpeg, 1344x768"):
            assert text in found.texts
        (command,) = commands(found)
        assert run(*shlex.split(command)[1:], "-o", "again.jpeg", *arguments).exit_code == 0
        with PIL.Image.open("again.jpeg") as again, PIL.Image.open("pictures/1.jpeg") as first:
            assert again.tobytes() == first.tobytes()

    @pytest.mark.parametrize("options", [[], ["--no-metadata"]])
    def test_a_folder_of_a_batch_is_told_by_its_files_or_its_manifest(self, options: list[str], server: Embedded) -> None:
        """Without comments in the files, what the manifest does not know is said to be missing."""
        Path("prompts.csv").write_text("prompt,aspect_ratio\na red cat,16:9\n-dash,\n")
        batch = ["batch", "prompts.csv", "-o", "pictures", "--seed", "5", "--endpoint", server.endpoint, *options]
        assert run(*batch).exit_code == 0
        found = page()
        told = [shlex.split(command)[2:] for command in commands(found)]
        model = [] if options else ["--model", "art://folder/yandex-art/latest"]
        ratio = [] if options else ["--aspect-ratio", "16:9"]
        assert sorted(told) == sorted(
            [["a red cat", "--seed", "5", *model, *ratio], ["--seed", "5", *model, "--", "-dash"]],
        )
        remark = "The command lacks what is not known: aspect ratio and model."
        assert found.texts.count(remark) == (2 if options else 0)
        manifest = [json.loads(line) for line in Path("pictures/manifest.jsonl").read_text().splitlines()]
        assert {line["operation_id"] for line in manifest} <= set(found.texts)

    def test_what_is_not_known_is_said(self) -> None:
        """Of a file without a comment, all but the id that its name may tell."""
        Path("pictures/yandexart-fbv1.jpeg").write_bytes(PICTURE)
        Path("pictures/other.jpg").write_bytes(PICTURE)
        found = page()
        assert found.texts.count("not known") == 4 + 3
        assert "fbv1" in found.texts
        assert found.texts.count("No command makes it again.") == 2

    def test_several_texts_make_no_command(self) -> None:
        """A command has one prompt, and that is said."""
        Path("pictures/1.jpeg").write_bytes(commented(PICTURE, Origin(prompt="a cat\na dog", seed=1, weighted=True)))
        found = page()
        assert commands(found) == []
        assert "It was asked for by several texts with weights, which no command takes." in found.texts

    def test_a_picture_of_the_demo_is_made_again_by_the_demo(self) -> None:
        """And not by whoever takes money."""
        assert run("generate", "a cat", "-o", "pictures/1", "--demo", "--folder-id", "demo").exit_code == 0
        (command,) = commands(page())
        assert "--demo" in shlex.split(command)

    def test_it_needs_nothing_but_itself(self) -> None:
        """No script and nothing from elsewhere: its pictures are in it, and links lead to the files beside it."""
        for name in ("a b#c?.jpeg", "2.jpeg"):
            Path("pictures", name).write_bytes(commented(PICTURE, Origin(prompt=HOSTILE, seed=1)))
        found = page()
        assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "form"})
        assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in found.all("img"))
        assert [link["href"] for link in found.all("a")] == ["./2.jpeg", "./a%20b%23c%3F.jpeg"]
        assert not [value for _, attributes in found.tags for name, value in attributes.items() if name.startswith("on")]
        assert HOSTILE not in found.texts[found.texts.index("Contact sheet of pictures")]
        policies = [meta["content"] for meta in found.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
        style = Path("pictures/sheet.html").read_text()
        assert "color-scheme: light dark" in style
        assert "@media print" in style
        small = PIL.Image.open(io.BytesIO(base64.b64decode(str(found.all("img")[0]["src"]).partition(",")[2])))
        assert max(small.size) <= SIDE

    def test_it_may_lie_elsewhere(self, folder: Path) -> None:
        """The links lead from there to the files."""
        Path("pictures/1.jpeg").write_bytes(PICTURE)
        Path("out").mkdir()
        assert run("sheet", "pictures", "-o", "out/cats").exit_code == 0
        found = Page(Path("out/cats.html").read_text())
        assert found.all("a")[0]["href"] == "./../pictures/1.jpeg"
        assert (folder / "out/cats.jpeg").exists()


class TestJpeg:
    def test_it_has_a_tile_for_each_picture(self) -> None:
        """Four of different colours stand where they belong, with text below them."""
        colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
        for number, colour in enumerate(colours):
            PIL.Image.new("RGB", (640, 640), colour).save(f"pictures/{number}.jpeg")
        assert run("sheet", "pictures").exit_code == 0
        with PIL.Image.open("pictures/sheet.jpeg") as sheet:
            sheet.load()
        gap = (sheet.width - 2 * SIDE) // 3
        below = sheet.height // 2
        at = [
            (gap + SIDE // 2 + column * (SIDE + gap), gap + SIDE // 2 + row * (below - gap // 2))
            for row in (0, 1)
            for column in (0, 1)
        ]
        for colour, place in zip(colours, at, strict=True):
            found = sheet.getpixel(place)
            assert isinstance(found, tuple)
            assert found == pytest.approx(colour, abs=12)
        text = sheet.crop((gap, gap + SIDE + 1, gap + SIDE, below - 1)).convert("L")
        assert min(text.tobytes()) < 160

    def test_every_line_of_text_is_inside_its_tile(self, server: Embedded) -> None:
        """However long a prompt or a word in it is: the columns between tiles stay empty."""
        for number, prompt in enumerate(["word " * 90, "x" * 490]):
            run("generate", prompt, "-o", f"pictures/{number}", "--endpoint", server.endpoint)
        assert run("sheet", "pictures").exit_code == 0
        with PIL.Image.open("pictures/sheet.jpeg") as sheet:
            gap = (sheet.width - 2 * SIDE) // 3
            between = sheet.crop((gap + SIDE + 3, 0, gap + SIDE + gap - 3, sheet.height)).convert("L")
        assert min(between.tobytes()) > 200

    @pytest.mark.skipif(sys.platform != "linux", reason="fonts are looked for elsewhere")
    def test_without_a_font_for_them_letters_are_missing_and_that_is_told(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path
    ) -> None:
        """The HTML has them; where the font inside Pillow is enough, nothing is said."""
        Path("pictures/1.jpeg").write_bytes(commented(PICTURE, Origin(prompt="рыжий кот", seed=1)))
        for variable in ("XDG_DATA_HOME", "XDG_DATA_DIRS"):
            monkeypatch.setenv(variable, str(folder / "nothing"))
        assert font_of()[1] is False, f"none of {FONTS} may be found here"
        result = run("sheet", "pictures")
        assert result.exit_code == 0
        assert result.stderr.startswith("pictures/sheet.jpeg has boxes for letters beyond Latin")
        Path("pictures/1.jpeg").write_bytes(commented(PICTURE, Origin(prompt="red cat", seed=1)))
        assert run("sheet", "pictures", "--force").stderr == ""


class TestFiles:
    def test_names_are_in_the_order_of_their_numbers(self) -> None:
        """2 comes before 10."""
        for name in ("cat-10.jpeg", "cat-2.jpeg", "CAT-1.JPG", "b.jpeg"):
            Path("pictures", name).write_bytes(PICTURE)
        assert [tile.path.name for tile in tiles(Path("pictures"))] == ["b.jpeg", "CAT-1.JPG", "cat-2.jpeg", "cat-10.jpeg"]

    def test_a_sheet_is_no_picture_of_the_next(self) -> None:
        """Whatever it is called; other files are left out too, those that look like pictures with a word."""
        Path("pictures/1.jpeg").write_bytes(PICTURE)
        assert run("sheet", "pictures", "-o", "pictures/before").exit_code == 0
        with PIL.Image.open("pictures/before.jpeg") as sheet:
            assert sheet.info["comment"] == MARK
        Path("pictures/junk.jpeg").write_text("no picture")
        Path("pictures/notes.txt").write_text("no picture")
        result = run("sheet", "pictures", "--json")
        assert printed(result.stdout) == {"html": "pictures/sheet.html", "jpeg": "pictures/sheet.jpeg", "pictures": 1}
        assert result.stderr == "pictures/junk.jpeg is left out: it is no picture that can be read\n"

    def test_a_manifest_that_is_broken_is_read_as_far_as_it_goes(self) -> None:
        """Half of a line, or one of somebody else, tells nothing."""
        Path("pictures/1.jpeg").write_bytes(PICTURE)
        lines = ['{"file": "1.jpeg", "prompt": "a cat", "seed": 3}', "[1]", '{"prompt": "x"}', "\udcff", '{"file": "1.j']
        Path("pictures/manifest.jsonl").write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
        (tile,) = tiles(Path("pictures"))
        assert tile.origin == Origin(prompt="a cat", seed=3)

    def test_halves_of_letters_in_names_and_prompts_do_no_harm(self) -> None:
        """A file system and a comment may hold them; they are shown as question marks, and the link still leads to the file."""
        Path("pictures/\udcff.jpeg").write_bytes(PICTURE)
        Path("pictures/1.jpeg").write_bytes(PICTURE)
        Path("pictures/manifest.jsonl").write_text('{"file": "1.jpeg", "prompt": "\\ud800 cat", "seed": 1}\n')
        found = page()
        assert "? cat" in found.texts
        assert [link["href"] for link in found.all("a")] == ["./1.jpeg", "./%FF.jpeg"]

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["pictures"], 2, "pictures: there is no picture in it"),
            (["nowhere"], 2, "'nowhere' does not exist"),
            (["full", "-o", "nowhere/sheet"], 1, "nowhere/sheet.html: No such file or directory"),
            (["there"], 1, "there/sheet.html: it exists already; --force replaces it"),
            (["many"], 2, f"many: {MOST + 1} pictures are more than {MOST}, which a sheet may have"),
        ],
    )
    def test_mistakes_are_named(self, arguments: list[str], code: int, words: str) -> None:
        """In one line, and nothing is replaced."""
        for name in ("full", "there", "many"):
            Path(name).mkdir()
            Path(name, "0.jpeg").write_bytes(PICTURE)
        Path("there/sheet.html").write_text("precious")
        for number in range(1, MOST + 1):
            shutil.copy("full/0.jpeg", f"many/{number}.jpeg")
        result = run("sheet", *arguments)
        assert result.exit_code == code
        assert words in result.stderr
        assert Path("there/sheet.html").read_text() == "precious"


def test_a_tile_tells_facts_in_words() -> None:
    """Each name has a value, be it that it is not known."""
    tile = Tile(
        path=Path("x.jpeg"), size=(1, 1), small=b"", origin=Origin(prompt="a cat", seed=1, model="art://b1g/m", aspect_ratio="")
    )
    assert tile.facts() == {
        "prompt": "a cat",
        "seed": "1",
        "model": "art://b1g/m",
        "id": "not known",
        "again": "yandexart generate 'a cat' --seed 1 --model art://b1g/m",
    }
    assert re.fullmatch("", tile.remark())
