const LINE_FEED = 0x0a

/** Splits the bytes of a stream into lines. */
export class LineSplitter {
  /** The parts of a line whose end has not arrived. */
  #parts: Uint8Array[] = []
  #length = 0

  /** The number of bytes of a line whose end has not arrived. */
  get pendingBytes(): number {
    return this.#length
  }

  /** Yields the lines that end in this part of the stream, without their line feeds. */
  *split(part: Uint8Array): Generator<Buffer, void> {
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
