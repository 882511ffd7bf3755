import { type Descriptor, wrapFd } from './descriptor.ts'
import { systemError } from '../native/system-error.ts'
import { native } from '../native/binding.ts'
import { openReactor } from '../event-loop/reactor.ts'

/**
 * Make a pipe: pipe2(2). What is written to its second end is read from the first; both are close-on-exec and in blocking
 * mode, for programs that expect it of their standard input or output.
 *
 * @returns the end to read from and the end to write to, which are the caller's to close
 * @throws `EMFILE`; ERR_UNSUPPORTED_PLATFORM
 */
export function pipe(): [read: Descriptor, write: Descriptor] {
  openReactor()
  const ends = native.pipe()
  if (typeof ends === 'number') throw systemError(ends, 'pipe')
  const [read, write] = ends
  return [wrapFd(read), wrapFd(write)]
}
