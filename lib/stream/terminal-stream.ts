import { invalidType } from '../base/errors.ts'
import { integer } from '../base/validate.ts'
import type { Descriptor } from '../descriptor/descriptor.ts'
import { native } from '../native/binding.ts'
import { systemError } from '../native/system-error.ts'
import { DescriptorStream } from './descriptor-stream.ts'

/** The size of a terminal's window, in characters: 0 to 65,535 each. 0 means that it was never set. */
export interface TerminalSize {
  /** The characters of a line. */
  readonly columns: number
  /** The lines. */
  readonly rows: number
}

/** The most columns or rows: ioctl_tty(2) has 16 bits for each. */
const MAX_SIZE = 65_535

// The class sets this: its constructor is not public.
/** Creates a stream that takes the descriptor of a terminal. */
export let openTerminal: (descriptor: Descriptor) => TerminalStream

/**
 * A terminal as a Node stream: the master of a pseudoterminal, its other end, or a real terminal. {@link Descriptor.toTerminal} creates it.
 *
 * A master delivers every byte that was written before the last descriptor of the other end was closed, and then `'end'`. Linux reports that
 * as `EIO`; it is not an error here. (A terminal discards what it has not delivered when its *master* closes: tty(4).) Neither reading nor writing
 * blocks the event loop: a program that does not read its terminal, or a terminal that Ctrl+S has stopped, makes `write` return false.
 */
export class TerminalStream extends DescriptorStream {
  static {
    openTerminal = (descriptor) => new TerminalStream(descriptor, false)
  }

  /**
   * The size of the window: `TIOCGWINSZ`. Both ends of a pseudoterminal have the same one.
   *
   * @throws ERR_DESCRIPTOR_CLOSED once the stream is closed
   */
  get size(): TerminalSize {
    const size = native.terminalSize(this.fd)
    if (typeof size === 'number') throw systemError(size, 'ioctl')
    return size
  }

  /**
   * Sets the size of the window: `TIOCSWINSZ`. If it changes, the programs in the foreground of the terminal get SIGWINCH.
   *
   * @param size the new size, in characters: 0 to 65,535 each
   * @throws ERR_INVALID_ARG_TYPE; ERR_OUT_OF_RANGE; ERR_DESCRIPTOR_CLOSED once the stream is closed
   */
  resize(size: TerminalSize): void {
    if (typeof size !== 'object' || size === null) throw invalidType('size', 'of type object', size)
    const { columns, rows } = size
    integer('size.columns', columns, 0, MAX_SIZE)
    integer('size.rows', rows, 0, MAX_SIZE)
    const code = native.setTerminalSize(this.fd, { columns, rows })
    if (code < 0) throw systemError(code, 'ioctl')
  }
}
