// Who takes part in passing descriptors.
import { join } from 'node:path'
import { bench, built } from './build.mjs'

const node = (file, ...way) => [process.execPath, join(bench, 'peers/node', file), ...way]
const python = (interpreter, way) => [interpreter, join(bench, 'peers/python/passing.py'), way]
const ONE_HANDLE = 'a message takes one handle'

/**
 * By name: what it is; the command, to which a workload and a count are added; what has to be built for it; what it cannot do, and
 * why.
 */
export const peers = {
  'c-blocking': { is: 'C: sendmsg, recvmsg, close', command: [built('passing'), 'blocking'] },
  'c-epoll': { is: 'C: the same, non-blocking, with epoll', command: [built('passing'), 'epoll'] },
  'c-batch': { is: 'C: sendmmsg, recvmmsg, close_range', command: [built('passing'), 'batch'] },
  'rust-tokio': { is: 'Rust: tokio and sendfd', command: [built('rust/release/passing')], needs: 'rust' },
  go: { is: 'Go: WriteMsgUnix, ReadMsgUnix', command: [built('passing-go')], needs: 'go' },
  'python-blocking': { is: 'Python: send_fds, recv_fds', command: python('python3', 'blocking'), needs: 'python' },
  'python-asyncio': { is: 'Python: the same in asyncio', command: python('python3', 'asyncio'), needs: 'python' },
  'python-anyio': {
    is: 'Python: anyio',
    command: python(built('python/bin/python'), 'anyio'),
    needs: 'anyio'
  },
  fdpass: { is: 'each call awaited', command: node('fdpass.mjs', 'await') },
  'fdpass-iterate': {
    is: '64 sends at a time, `for await`',
    command: node('fdpass.mjs', 'iterate'),
    cannot: { w1: 'the same as fdpass', w4: 'the same as fdpass' }
  },
  usocket: { is: 'npm usocket', command: node('usocket.mjs', 'plain'), needs: 'usocket' },
  'usocket-acked': {
    is: 'npm usocket, at most 128 on their way',
    command: node('usocket.mjs', 'acked'),
    needs: 'usocket',
    cannot: { w1: 'the same as usocket', w4: 'the same as usocket' }
  },
  'child-process': {
    is: 'Node: process.send(message, handle)',
    command: node('child-process.mjs'),
    cannot: { w3: ONE_HANDLE }
  },
  'pipe-wrap': {
    is: "Node: process.binding('pipe_wrap')",
    command: node('pipe-wrap.mjs'),
    cannot: { w3: ONE_HANDLE }
  },
  cluster: {
    is: 'Node: cluster, SCHED_RR',
    command: node('cluster.mjs', 'rr'),
    cannot: { w1: 'it passes connections only', w2: 'it passes connections only', w3: 'it passes connections only' }
  }
}

const [major, minor] = process.versions.node.split('.').map(Number)
/** Whether `net.Server#listen()` has the option `reusePort`. */
const hasReusePort = major > 23 || (major === 23 && minor >= 1)

/** Who takes part in handing connections to one worker beside them. */
export const superservers = {
  'c-blocking': peers['c-blocking'],
  cluster: peers.cluster,
  'cluster-none': { is: 'Node: cluster, SCHED_NONE: the worker accepts', command: node('cluster.mjs', 'none') },
  'cluster-reuse-port': {
    is: 'Node: cluster, reusePort: each worker has a listener',
    command: node('cluster.mjs', 'reuse'),
    cannot: {
      w4: 'the same as SCHED_NONE',
      ...(hasReusePort ? {} : { w5: 'net.Server has reusePort from Node 23.1 on' })
    }
  },
  'fdpass-connection': {
    is: "fdpass/superserver, handoff: 'connection'",
    command: node('superserver.mjs', 'connection')
  },
  'fdpass-listener': {
    is: "fdpass/superserver, handoff: 'listener': the worker accepts",
    command: node('superserver.mjs', 'listener')
  },
  'fdpass-reuse-port': {
    is: "fdpass/superserver, handoff: 'listener', reusePort: each worker has a listener",
    command: node('superserver.mjs', 'reuse'),
    cannot: { w4: "the same as handoff: 'listener'" }
  }
}
