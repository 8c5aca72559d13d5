"""The secret that pseudonyms are made with, and what they look like."""

import re
import stat
import threading
from pathlib import Path

import pytest

from agent.collect.privacy import Profile, secret_of
from agent.errors import ConfigError
from agent.settings.plan import Privacy
from tests.collect.places import DATABASE, SECRET, profile


class TestPseudonym:
    def test_it_stays_and_has_the_form_of_a_name(self) -> None:
        first, second = (profile(purpose="research", round_m=1).pseudonym for _ in range(2))
        assert first == second
        assert re.fullmatch(r"p-[a-z2-7]{20}", first)

    def test_another_purpose_vehicle_or_secret_makes_another_one(self) -> None:
        def made(purpose: str, vehicle: str, secret: bytes) -> str:
            written = Privacy(name="careful", purpose=purpose)
            return Profile(written, DATABASE, vehicle=vehicle, secret=secret).pseudonym

        names = {
            made("research", "truck-7", SECRET),
            made("warranty", "truck-7", SECRET),
            made("research", "truck-8", SECRET),
            made("researcht", "ruck-7", SECRET),
            made("research", "truck-7", SECRET[::-1]),
        }
        assert len(names) == 5

    def test_without_a_purpose_the_vehicle_keeps_its_name(self) -> None:
        assert profile(round_m=1).pseudonym == "truck-7"

    def test_a_purpose_without_a_secret_is_refused(self) -> None:
        with pytest.raises(ValueError, match="secret"):
            Profile(Privacy(name="careful", purpose="x"), DATABASE, vehicle="truck-7")


class TestSecret:
    def test_it_is_made_once_and_only_its_owner_can_read_it(self, tmp_path: Path) -> None:
        folder = tmp_path / "state"
        first = secret_of(folder)
        assert len(first) == 32
        assert secret_of(folder) == first
        [file] = folder.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

    def test_another_installation_has_another_one(self, tmp_path: Path) -> None:
        assert secret_of(tmp_path / "a") != secret_of(tmp_path / "b")

    def test_all_who_come_first_at_once_get_the_same(self, tmp_path: Path) -> None:
        found: list[bytes] = []
        together = threading.Barrier(8)

        def ask() -> None:
            together.wait()
            found.append(secret_of(tmp_path))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_damaged_one_is_said_and_not_replaced(self, tmp_path: Path) -> None:
        secret = secret_of(tmp_path)
        [file] = tmp_path.iterdir()
        file.write_bytes(secret[:20])
        with pytest.raises(ConfigError, match="is damaged") as raised:
            secret_of(tmp_path)
        assert file.read_bytes() == secret[:20]
        assert secret.hex()[:8] not in str(raised.value)

    def test_a_folder_that_cannot_be_one_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "state").write_text("a file")
        with pytest.raises(ConfigError, match="the secret of pseudonyms"):
            secret_of(tmp_path / "state")
