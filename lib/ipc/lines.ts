const LINE_FEED = 0x0a

/** Lines out of what a stream delivers. */
export class Lines {
  /** The parts of a line whose end has not come. */
  #parts: Uint8Array[] = []
  #length = 0

  /** How many bytes of a line have come whose end has not. */
  get pending(): number {
    return this.#length
  }

  /** The lines that end in this part, without their line feeds. */
  *take(part: Uint8Array): Generator<Buffer, void> {
    let from = 0
    for (let end = part.indexOf(LINE_FEED); end >= 0; end = part.indexOf(LINE_FEED, from)) {
      const line = Buffer.concat([...this.#parts, part.subarray(from, end)])
      this.#parts = []
      this.#length = 0
      from = end + 1
      yield line
    }
    if (from === part.length) return
    this.#parts.push(part.subarray(from))
    this.#length += part.length - from
  }
}
