import { Channel, type ChannelMessage, type ChannelRequest, type Descriptor, type UnixSocket } from 'fdpass'
import { exactly } from './exactly.ts'

declare const socket: UnixSocket
declare const descriptor: Descriptor
declare const signal: AbortSignal

const any = new Channel(socket)
exactly<Channel<unknown>>()(any)
exactly<UnixSocket>()(any.socket)
exactly<Promise<Error | null>>()(any.closed)
exactly<Promise<void>>()(any.send({ any: 'thing' }, [descriptor, 3], { signal }))
exactly<Promise<ChannelMessage<unknown> | null>>()(any.receive({ signal }))
exactly<Promise<ChannelMessage<unknown>>>()(any.request('x', null, { signal, timeout: 5 }))
exactly<Channel<unknown>>()(any.ref().unref().onRequest(null))
exactly<void>()(any.close())
exactly<Promise<void>>()(any[Symbol.asyncDispose]())
// @ts-expect-error
any.socket = socket
// @ts-expect-error
new Channel()
// @ts-expect-error
new Channel(descriptor)
// @ts-expect-error
any.send('x', descriptor)
// @ts-expect-error
any.send('x', [], { timeout: 5 })

interface Job {
  name: string
}
const jobs = new Channel<Job>(socket, {
  maxBytes: 5,
  maxFds: undefined,
  maxPending: 5,
  encode: (job: Job) => job.name,
  decode: (data) => ({ name: String(data) })
})
// @ts-expect-error
new Channel(socket, { encode: () => 5 })
// @ts-expect-error
jobs.send({ name: 5 })
// @ts-expect-error
jobs.request('x')

for await (const message of jobs) {
  exactly<ChannelMessage<Job>>()(message)
  exactly<Job>()(message.value)
  exactly<readonly Descriptor[]>()(message.fds)
  exactly<void>()(message.close())
  using closing = message
  // @ts-expect-error
  closing.value = { name: 'x' }
}

jobs.onRequest((request) => {
  exactly<ChannelRequest<Job>>()(request)
  exactly<AbortSignal>()(request.signal)
})
jobs.onRequest(() => ({ fds: [descriptor] }))
jobs.onRequest(async () => ({ value: 1 }))
jobs.onRequest(() => undefined)
// @ts-expect-error
jobs.onRequest(() => 5)
// @ts-expect-error
jobs.onRequest(() => ({ fds: descriptor }))
