import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2'

/** The highest id of a client's stream. */
const LAST_STREAM = 2 ** 31 - 1

/**
 * Closes a session as RFC 9113, 6.8 describes it: the first GOAWAY refuses no stream, because the client may have begun one. The second one,
 * after a round trip, names the last stream.
 */
export class Http2Closing {
  readonly session: ServerHttp2Session
  #streams = 0
  #hasBegun = false

  /** Create it before the session has streams. */
  constructor(session: ServerHttp2Session) {
    this.session = session
    session.on('stream', (stream: ServerHttp2Stream) => {
      this.#streams++
      stream.once('close', () => {
        this.#streams--
        // Behind a GOAWAY and the last stream nghttp2 reads nothing more, not even the answer to a ping (nghttp2_session_want_read).
        if (this.#hasBegun && this.#streams === 0) session.close()
      })
    })
  }

  /** Closes the session when its streams have ended. */
  start(): void {
    const { session } = this
    if (session.closed || session.destroyed || this.#hasBegun) return
    this.#hasBegun = true
    if (this.#streams === 0) return session.close()
    session.goaway(0, LAST_STREAM)
    try {
      if (session.ping(() => session.close())) return
    } catch {
      // Too many pings are on their way.
    }
    session.close()
  }
}
