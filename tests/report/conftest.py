"""A trained model, and a browser for its pages: Chromium without a window, spoken to in its own protocol through two pipes."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import scgpcl

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page of a running Chromium."""

    def __init__(self, folder):
        self.folder = folder
        to_browser, ours = os.pipe()
        theirs, from_browser = os.pipe()
        command = [
            BROWSER, "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--remote-debugging-pipe",
            f"--user-data-dir={folder / 'profile'}", "about:blank",
        ]  # fmt: skip
        # Chromium reads from descriptor 3 and writes to descriptor 4
        launch = (
            "import fcntl, os, sys; ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]; "
            "os.dup2(ends[0], 3); os.dup2(ends[1], 4); os.execv(sys.argv[3], sys.argv[3:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-SEc", launch, str(to_browser), str(from_browser), *command],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.input, self.output = os.fdopen(ours, "wb", 0), os.fdopen(theirs, "rb", 0)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        page = next(one for one in self.call("Target.getTargets")["targetInfos"] if one["type"] == "page")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "DOM", "Performance"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Answer to a command of the Chrome DevTools protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session is not None:
            message["sessionId"] = self.session
        self.input.write(json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.buffer:
                part = self.output.read(1 << 16)
                assert part, "the browser has gone"
                self.buffer += part
            one, self.buffer = self.buffer.split(b"\0", 1)
            answer = json.loads(one)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)
            if answer.get("method") == "Page.javascriptDialogOpening":  # leave a page with changes that are not saved
                leave = {"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
                self.input.write(json.dumps({**leave, "sessionId": self.session}).encode() + b"\0")

    def __call__(self, code):
        """Value of an expression on the page."""
        answer = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, code, seconds=60):
        """Wait until an expression is true; returns the seconds it took."""
        start = time.monotonic()
        while not self(code):
            assert time.monotonic() - start < seconds, code
            time.sleep(0.02)
        return time.monotonic() - start

    def open(self, path, width=1200, height=900, dark=False):
        """Open a report and wait for its map."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.documentElement?.dataset.ready !== undefined")

    def faults(self):
        """Errors and refused loads since the page was opened, and addresses other than its own and data."""
        asked = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        said = [e["params"] for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return said, [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

    def click(self, selector, at=(0.5, 0.5)):
        """Press and release the mouse on an element, as a person would."""
        self(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
        )
        where = {"x": box[0] + at[0] * box[2], "y": box[1] + at[1] * box[3]}
        self.call("Input.dispatchMouseEvent", type="mouseMoved", **where)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **where)

    def press(self, key, **more):
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **more)

    def type(self, selector, text):
        """Replace the text of a field, and leave it."""
        self(f"document.querySelector({selector!r}).focus(); document.querySelector({selector!r}).select()")
        self.call("Input.insertText", text=text)
        self("document.activeElement.blur()")

    def choose_file(self, selector, path):
        """Give a file to a field for files."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def picture(self, path=None):
        """PNG file of what is on the screen."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    def close(self):
        self.input.close()
        self.output.close()
        self.process.terminate()
        self.process.wait(timeout=30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None:
        if os.environ.get("SCGPCL_REQUIRE_BROWSER"):
            pytest.fail("Expected Chromium, found none. Install it: apt-get install chromium")
        pytest.skip("no Chromium is installed")
    page = Browser(tmp_path_factory.mktemp("browser"))
    yield page
    page.close()


@pytest.fixture(scope="session")
def trained():
    """A small trained model and its cells, with a map, so that none has to be made."""
    rng = np.random.default_rng(0)
    groups = rng.integers(3, size=150)
    mean = rng.gamma(2.0, 1.0, 80) * np.where(rng.random((3, 80)) < 0.3, 4.0, 1.0)[groups]
    x = sp.csr_matrix(rng.poisson(mean).astype(np.float32))
    adata = ad.AnnData(sp.csr_matrix(x.shape, dtype=np.float32), layers={"counts": x})
    adata.obs_names = [f"cell{i}" for i in range(150)]
    adata.var_names = [f"gene{i}" for i in range(80)]
    adata.obs["type"] = pd.Categorical([f"type {g}" for g in groups])
    adata.obs["donor"] = ["one", "two", "three"] * 50
    scgpcl.SCGPCL.setup_anndata(adata, layer="counts", batch_key="donor")
    model = scgpcl.SCGPCL(adata, 3, n_hidden=16, n_latent=8)
    model.train(pretrain_max_epochs=2, cluster_max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    adata.obsm["X_umap"] = adata.obsm["X_scgpcl"][:, :2].copy()
    return adata, model


@pytest.fixture
def cells(trained):
    return trained[0].copy()


@pytest.fixture
def model(trained):
    return trained[1]
