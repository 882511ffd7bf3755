/** What is going on, on standard error: on one line of a terminal, and otherwise a line for every suite and workload. */
export class Progress {
  #last = ''

  show(text) {
    if (process.stderr.isTTY) {
      process.stderr.write(`\r\u001B[K${text}`)
      return
    }
    const coarse = text.replace(/^\d+\/\d+ /, '').replace(/ \S+(, [^,]* left)?$/, '')
    if (coarse !== this.#last) console.error(text)
    this.#last = coarse
  }

  end() {
    if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
  }
}
