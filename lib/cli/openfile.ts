// Opens files for the parent process and passes it the descriptors: the openfile of UNP vol. 1, section 15.7, for many files.
import { open } from 'node:fs'
import { promisify } from 'node:util'
import { Channel, Descriptor, UnixSocket } from 'fdpass'

const channel = new Channel<string>(UnixSocket.from(3))
channel.onRequest(async ({ value: path }) => ({ fds: [Descriptor.from(await promisify(open)(path, 'r'))] }))
await channel.closed
// Not process.exit(), which would wait for an open(2) that is blocked on a FIFO without a writer.
process.kill(process.pid, 'SIGKILL')
