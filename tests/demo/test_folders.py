"""Files of servers that were killed."""

import os
import signal
import subprocess
import sys
import tempfile

from audiolm_jax.demo import folders

SERVER = (
  "import sys, time\n"
  "from audiolm_jax.demo import folders\n"
  "with folders.temporary() as folder:\n"
  "  (folder / 'upload.wav').write_bytes(b'sound')\n"
  "  print(folder, flush=True)\n"
  "  sys.stdin.read()\n"
)


def test_the_next_server_removes_the_files_of_a_killed_one_and_no_others(tmp_path, monkeypatch):
  monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
  (tmp_path / "audiolm_jax_demo_notes").mkdir()
  link = tmp_path / "audiolm_jax_demo_link"
  link.symlink_to(tmp_path / "audiolm_jax_demo_notes")
  environment = os.environ | {"TMPDIR": str(tmp_path)}
  with subprocess.Popen(
    [sys.executable, "-c", SERVER],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
  ) as server:  # fmt: skip
    killed = server.stdout.readline().strip()  # pyright: ignore[reportOptionalMemberAccess]: it is not None
    with folders.temporary():
      assert os.path.exists(f"{killed}/upload.wav")
    server.send_signal(signal.SIGKILL)
    server.wait()
  assert os.path.exists(f"{killed}/upload.wav")
  with folders.temporary() as own:
    assert not os.path.exists(killed)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([own.name, "audiolm_jax_demo_link", "audiolm_jax_demo_notes"])
  assert not own.exists()
