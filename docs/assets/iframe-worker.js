// A page that is opened from a disk may start no worker: there a hidden frame runs the search instead.
// The theme's search looks for a class of this name.
window.IFrameWorker = class extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    this.frame.answer = data => this.dispatchEvent(new MessageEvent("message", { data }))
    document.body.append(this.frame)
    const inside = this.frame.contentDocument
    inside.open()
    inside.write(`<body><script>postMessage = frameElement.answer</script><script src="${url}"></script>`)
    this.started = new Promise(resolve => this.frame.addEventListener("load", resolve))
    inside.close()
  }

  postMessage(data) {
    this.started.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
  }
}
if (location.protocol === "file:") window.Worker = window.IFrameWorker
