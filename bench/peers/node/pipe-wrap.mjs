// Node's own IPC pipe, by process.binding('pipe_wrap'), which is not documented: what programs do that want no addon. It passes
// TCP, pipe and UDP handles, one a message: w3 cannot be said, and any other descriptor aborts the receiver.
import { mkdtempSync, rmSync } from 'node:fs'
import { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as ends from './ends.mjs'

const { Pipe, PipeConnectWrap, constants } = process.binding('pipe_wrap')
const { WriteWrap, kLastWriteWasAsync, kReadBytesOrError, streamBaseState } = process.binding('stream_wrap')
const { workload } = ends

if (ends.isReceiver) await receive()
else await send()

/** Sends a byte, and a handle if there is one. Returns whether it is written; if not, `written` is called when it is. */
function write(pipe, handle, written) {
  const request = new WriteWrap()
  request.oncomplete = (status) => {
    if (status !== 0) throw new Error(`write: ${status}`)
    written?.()
  }
  const status = handle ? pipe.writeUtf8String(request, 'x', handle) : pipe.writeUtf8String(request, 'x')
  if (status !== 0) throw new Error(`write: ${status}`)
  return streamBaseState[kLastWriteWasAsync] === 0
}

function read(pipe, each) {
  pipe.pendingHandle = null
  pipe.onread = () => {
    const handle = pipe.pendingHandle
    pipe.pendingHandle = null
    each(streamBaseState[kReadBytesOrError], handle)
  }
  pipe.readStart()
}

async function receive() {
  const own = await ends.listenOnLoopback()
  const pipe = new Pipe(constants.IPC)
  await new Promise((resolve) => {
    const request = new PipeConnectWrap()
    request.oncomplete = resolve
    pipe.connect(request, ends.address)
  })
  read(pipe, (length, handle) => {
    if (length < 0) return ends.tell()
    if (workload === 'w4') {
      if (handle) ends.answer(new Socket({ handle }))
      return
    }
    const due = ends.took(length, handle ? 1 : 0)
    handle?.close()
    if (workload === 'w1') write(pipe, own._handle)
    else if (due > 0) write(pipe)
  })
}

async function send() {
  const folder = mkdtempSync(join(tmpdir(), 'fdpass-bench-'))
  const at = join(folder, 'socket')
  const server = new Pipe(constants.SERVER)
  const connected = new Promise((resolve) => {
    server.onconnection = (_status, connection) => resolve(connection)
  })
  if (server.bind(at) !== 0 || server.listen(1) !== 0) throw new Error(`Cannot listen on ${at}`)
  const { there } = ends.startReceiver(fileURLToPath(import.meta.url), { at })
  const connection = await connected // as a plain pipe, whose descriptor the IPC pipe takes
  const pipe = new Pipe(constants.IPC)
  pipe.open(connection.fd)
  rmSync(folder, { recursive: true })
  if (workload === 'w4') {
    read(pipe, () => {})
    const listener = await ends.listenOnLoopback((accepted) => {
      if (write(pipe, accepted._handle, () => accepted.destroy())) accepted.destroy()
    })
    console.log(listener.address().port)
    return
  }

  const own = await ends.listenOnLoopback()
  let here
  if (workload === 'w1') {
    const trips = new ends.RoundTrips()
    await new Promise((resolve) => {
      read(pipe, (_length, handle) => {
        handle.close()
        if (trips.more()) write(pipe, own._handle)
        else resolve()
      })
      write(pipe, own._handle)
    })
    here = trips.result
  } else {
    let acknowledged
    read(pipe, () => acknowledged())
    here = await ends.streaming(
      (count) =>
        new Promise((resolve) => {
          acknowledged = resolve
          let sent = 0
          const pump = () => {
            while (sent < count) {
              sent++
              if (!write(pipe, own._handle, pump)) return
            }
          }
          pump()
        })
    )
  }
  pipe.close()
  connection.close()
  ends.print(here, await there)
}
