// Clips that play in step: they start together, wait for the longest at the end, and one scrubber moves them all.

const SPEEDS = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4];
const HOLD = 350; // ms at the end before they start again

export class Player {
  constructor(videos, clocks, controls) { // of each video its { fps, times }: times (s) where frames are not shown evenly
    Object.assign(this, { videos, clocks, controls, playing: true, watched: 0, alive: true });
    this.speed = Number(localStorage.getItem("pbrl-speed") ?? 1);
    for (const video of videos) video.playbackRate = this.speed;
    controls.scrubber.oninput = () => this.seek(Number(controls.scrubber.value));
    this.ready = Promise.all(videos.map(canPlay)).then(() => this.begin());
  }

  get lead() { // the longest
    return this.videos.reduce((a, b) => (b.duration > a.duration ? b : a));
  }

  get clock() {
    return this.clocks[this.videos.indexOf(this.lead)];
  }

  get frames() {
    const { fps, times } = this.clock;
    if (times) return times.length - 1; // the last is the end
    return Math.max(1, Math.round((this.lead.duration || 0) * fps)); // no duration is known before it loads
  }

  get frame() {
    const { fps, times } = this.clock;
    const now = this.lead.currentTime;
    const frame = times ? times.findLastIndex((at) => at <= now + 1e-3) : Math.floor(now * fps + 1e-3);
    return Math.min(this.frames - 1, frame);
  }

  begin() {
    if (!this.alive) return;
    this.controls.scrubber.max = this.frames - 1;
    this.show();
    this.last = performance.now();
    this.tick();
    this.restart();
  }

  tick() {
    if (!this.alive) return;
    const now = performance.now();
    const lead = this.lead;
    if (this.playing) {
      this.watched += (now - this.last) / 1000;
      for (const video of this.videos) {
        const apart = Math.abs(video.currentTime - lead.currentTime) > 1 / this.clock.fps;
        if (apart && !video.ended && !lead.ended && !video.seeking) video.currentTime = lead.currentTime;
      }
      if (lead.ended && !this.ending) this.ending = setTimeout(() => this.playing && this.restart(), HOLD);
    }
    this.last = now;
    this.controls.scrubber.value = this.frame;
    this.controls.frame.value = `${this.frame + 1} / ${this.frames}`;
    requestAnimationFrame(() => this.tick());
  }

  show() {
    this.controls.play.textContent = this.playing ? "❚❚" : "▶";
    this.controls.speed.value = `${this.speed}×`;
  }

  restart() {
    clearTimeout(this.ending);
    this.ending = null;
    for (const video of this.videos) video.currentTime = 0;
    this.run(true);
  }

  run(playing) {
    this.playing = playing;
    for (const video of this.videos) playing ? video.play().catch(() => {}) : video.pause();
    this.show();
  }

  toggle() {
    if (!this.playing && this.lead.ended) this.restart();
    else this.run(!this.playing);
  }

  seek(frame) {
    if (!this.lead.duration) return;
    this.run(false);
    const to = Math.max(0, Math.min(this.frames - 1, frame));
    const { fps, times } = this.clock;
    const middle = times ? (times[to] + times[to + 1]) / 2 : (to + 0.5) / fps;
    for (const video of this.videos) video.currentTime = Math.min(middle, video.duration - 1e-3);
  }

  step(by) {
    this.seek(this.frame + by);
  }

  faster(by) {
    const at = SPEEDS.indexOf(this.speed) + by;
    this.speed = SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at))];
    localStorage.setItem("pbrl-speed", this.speed);
    for (const video of this.videos) video.playbackRate = this.speed;
    this.show();
  }

  end() {
    this.alive = false;
    clearTimeout(this.ending);
    for (const video of this.videos) video.pause();
  }
}

function canPlay(video) {
  if (video.readyState >= 3) return null;
  return new Promise((resolve) => video.addEventListener("canplay", resolve, { once: true }));
}
