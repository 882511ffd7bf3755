// Opens files for another process, and passes it the descriptors: the openfile of UNP vol. 1, section 15.7, for all files.
import { open } from 'node:fs'
import { promisify } from 'node:util'
import { Channel, Descriptor, UnixSocket } from 'fdpass'

const channel = new Channel<string>(UnixSocket.from(3))
channel.onRequest(async ({ value: path }) => ({ fds: [Descriptor.from(await promisify(open)(path, 'r'))] }))
await channel.closed
// Not process.exit(): that would wait for an open(2) which waits for the writer of a FIFO.
process.kill(process.pid, 'SIGKILL')
