import { spawn } from 'node:child_process'
import { runInNewContext } from 'node:vm'
import test from 'ava'
import { Places } from '../../lib/base/collections.ts'
import { retainedBytes } from '../helpers/conditions.ts'
import { fixturePath, finish } from '../helpers/processes.ts'

const collected = 'FDPASS_NOT_CLOSED\ndone\n'
const untouched = 'done\n'

const scenarios: Record<string, [title: string, output: string]> = {
  descriptor: ['received descriptors that were dropped are closed, with one warning [D2]', collected],
  taken: ['a descriptor that was taken over and dropped is closed, with a warning [D2]', collected],
  numberRead: ['a descriptor whose number was read is warned about and left open [D2]', collected],
  numberReadLate: ['a descriptor whose number was read late is warned about and left open [D2]', collected],
  read: ['a descriptor that was read and dropped is closed, with a warning [D2]', collected],
  reading: ['a descriptor that only a pending read uses is not collected [E7]', untouched],
  inspected: ['a descriptor that was printed and dropped is closed, with a warning [D2]', collected],
  closed: ['what was closed or released is not warned about [D4]', untouched],
  reused: ['the number of a closed descriptor is not closed again when the descriptor is collected [D5]', untouched],
  stream: ['a stream over a pipe that was dropped is closed, with a warning [D2]', collected],
  socket: ['a socket that nobody uses is closed, with a warning [D2]', collected],
  socketNumberRead: ['a socket whose number was read is warned about and left open [D2]', collected],
  serverNumberRead: ['a server whose number was read is warned about and left open, with its file [D2]', collected],
  socketWithMessages: ['a socket that nobody uses closes what it has received ahead [D3]', collected],
  receiving: ['a socket that only a waiting receive uses is not collected [E7]', untouched],
  receivingUnwatched: ['a socket that only a waiting receive with a callback uses is not collected [E7]', untouched],
  sending: ['a socket that only a waiting send uses is not collected before it was sent [E7]', collected],
  iterating: ['a socket that only an iteration uses is not collected [E7]', untouched],
  iteratorKept: ['a socket that only an iterator refers to is not collected [E7]', untouched],
  server: ['a server that nobody uses is closed and its file removed, with a warning [D2]', collected],
  accepting: ['a server that only a waiting accept uses is not collected [E7]', untouched],
  sendingTo: [
    'a socket that only datagrams to a full receiver use is not collected before they were sent [E7]',
    collected
  ],
  churn: ['1,000 pairs opened, used and closed amid garbage collection end well [E13]', untouched]
}

for (const [scenario, [title, output]] of Object.entries(scenarios)) {
  test(title, async (t) => {
    const args = [...process.execArgv, '--expose-gc', fixturePath('garbage'), scenario]
    t.is(await finish(spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'ignore'] })), output)
  })
}

test('objects that come and go in a long-lived collection are garbage of the young generation', (t) => {
  const places = new Places<object>()
  const present: [object, number][] = []
  for (let i = 0; i < 2; i++) retainedBytes() // promotes the collection
  const before = process.memoryUsage().heapUsed
  for (let i = 0; i < 200_000; i++) {
    const item = { text: 'x'.repeat(10), values: [i, i, i, i, i, i, i, i, i, i] }
    present.push([item, places.add(item)])
    if (present.length > 64) places.remove(...present.shift()!)
  }
  t.is(places.size, 64)
  t.deepEqual([...places].length, 64)
  runInNewContext("gc({ type: 'minor' })")
  const kept = process.memoryUsage().heapUsed - before
  t.true(kept < 10e6, `${kept} bytes`) // 31 MB with a Set
})
