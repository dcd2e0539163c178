// <streamed-sound>: plays 16-bit samples while they arrive, and the complete file afterwards.
(() => {
  const LEAD_SECONDS = 0.1; // delay of a piece that arrives late
  let context = null;
  let playing = null; // only one player plays at a time

  class StreamedSound extends HTMLElement {
    connectedCallback() {
      if (this.shown) return;
      this.shown = true;
      this.innerHTML =
        '<div class="live"><button type="button" class="play"></button>' +
        '<progress max="1" value="0" aria-label="made so far"></progress>' +
        '<span class="progress-text" role="status"></span></div>' +
        '<audio controls preload="metadata" hidden></audio>';
      this.pieces = [];
      this.received = 0;
      this.total = 0;
      this.rate = 1;
      this.nodes = new Set();
      this.button = this.querySelector(".play");
      this.button.onclick = () => (this.isPlaying ? this.silence() : this.play());
      this.showStatus("waiting for the first sound");
      this.label();
      this.abort = new AbortController();
      this.receive().catch((error) => this.isConnected && this.showStatus("interrupted: " + error.message));
      if (this.dataset.autoplay === "yes") this.play();
    }

    disconnectedCallback() {
      // An element that moves within the page is connected again immediately.
      setTimeout(() => {
        if (this.isConnected) return;
        this.abort.abort();
        this.silence();
      });
    }

    async receive() {
      const answer = await fetch(this.dataset.live, { signal: this.abort.signal });
      if (!answer.ok) throw new Error(await answer.text());
      this.rate = Number(answer.headers.get("X-Sample-Rate"));
      this.total = Number(answer.headers.get("X-Samples"));
      const reader = answer.body.getReader();
      let odd = new Uint8Array(0);
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        const bytes = new Uint8Array(odd.length + value.length);
        bytes.set(odd);
        bytes.set(value, odd.length);
        const whole = bytes.length - (bytes.length % 2);
        odd = bytes.slice(whole);
        if (whole) this.take(new DataView(bytes.buffer, 0, whole));
      }
      this.finish();
    }

    take(view) {
      const piece = new Float32Array(view.byteLength / 2);
      for (let i = 0; i < piece.length; i++) piece[i] = view.getInt16(2 * i, true) / 32768;
      this.pieces.push(piece);
      this.firstSound = this.firstSound ?? performance.now();
      this.received += piece.length;
      this.querySelector("progress").value = this.received / this.total;
      this.showStatus(`${this.seconds(this.received)} of ${this.seconds(this.total)} s`);
      if (this.isPlaying) this.schedule(piece);
    }

    finish() {
      this.ended = true;
      const all = this.received === this.total;
      if (!all) this.showStatus(`ended after ${this.seconds(this.received)} s`);
      if (all) {
        const file = this.querySelector("audio");
        file.src = this.dataset.file;
        file.onplay = () => playing && playing.silence();
        file.hidden = false;
      }
      this.classList.add(all ? "complete" : "cut");
      if (!this.nodes.size) this.silence();
    }

    play() {
      if (playing && playing !== this) playing.silence();
      context = context ?? new AudioContext();
      context.resume();
      playing = this;
      this.isPlaying = true;
      this.next = 0;
      this.pieces.forEach((piece) => this.schedule(piece));
      this.label();
    }

    schedule(piece) {
      const buffer = context.createBuffer(1, piece.length, this.rate);
      buffer.copyToChannel(piece, 0);
      const node = context.createBufferSource();
      node.buffer = buffer;
      node.connect(context.destination);
      this.next = Math.max(this.next, context.currentTime + LEAD_SECONDS);
      node.start(this.next);
      this.next += buffer.duration;
      this.nodes.add(node);
      node.onended = () => {
        this.nodes.delete(node);
        if (this.ended && !this.nodes.size) this.silence();
      };
    }

    silence() {
      this.isPlaying = false;
      this.nodes.forEach((node) => {
        node.onended = null;
        node.stop();
      });
      this.nodes.clear();
      if (playing === this) playing = null;
      if (this.ended && this.classList.contains("complete")) this.querySelector(".live").hidden = true;
      this.label();
    }

    label() {
      this.button.textContent = this.isPlaying ? "Silence" : "Listen";
    }

    showStatus(text) {
      this.querySelector(".progress-text").textContent = text;
    }

    seconds(samples) {
      return (samples / this.rate).toFixed(1);
    }
  }

  customElements.define("streamed-sound", StreamedSound);
})();
