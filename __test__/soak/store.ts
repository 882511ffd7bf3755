// Stores that take over from one another, are killed, and are full now and then, while clients come, go and are killed. What was kept is
// there after each take-over; what a killed store had is gone, and its clients are told so.
import { fstatSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { type Descriptor, memfd } from 'fdpass'
import { connectStore } from 'fdpass/store'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath } from '../helpers/processes.ts'
import { type Program, type Scene, play, programPath } from './scene.ts'

const path = join(temporaryFolder(), 'store')
const inode = (descriptor: Descriptor) => fstatSync(descriptor.fd).ino

async function keeper(scene: Scene): Promise<Program> {
  const program = scene.start(fixturePath('services'), ['serve', path, '200'])
  const line = await program.line()
  if (line !== 'ready') throw new Error(`A store is not ready: ${line}`)
  return program
}

await play(async (scene) => {
  const { below } = scene.random
  const kept = new Map<string, number[]>()
  let current = await keeper(scene)
  const store = await connectStore(path)
  // One call of the model at a time, and none while a store is killed.
  let turn: Promise<unknown> = Promise.resolve()
  const alone = <T>(task: () => Promise<T>): Promise<T> => {
    const done = turn.then(task)
    turn = done.catch(() => {})
    return done
  }

  const call = async () => {
    const name = `model-${below(20)}`
    const known = kept.get(name)
    scene.count('calls')
    const kind = below(5)
    try {
      if (kind < 2) {
        const fds = Array.from({ length: 1 + below(10) }, () => memfd({ data: name }))
        const inodes = fds.map(inode)
        try {
          await scene.settles('put', store.put(name, fds, { replace: scene.oneIn(2) }))
          kept.set(name, inodes)
          scene.count('transfers', fds.length)
        } catch (error) {
          scene.told('put', error, known === undefined ? ['ENOSPC'] : ['EEXIST', 'ENOSPC'])
        }
        for (const fd of fds) fd.closeSync()
      } else if (kind < 4) {
        const remove = scene.oneIn(3)
        const got = await scene.settles('get', store.get(name, { remove }))
        const right = known !== undefined && got.length === known.length && got.every((fd, i) => inode(fd) === known[i])
        if (!right) scene.problem(`${name} is not what was put`)
        if (remove) kept.delete(name)
        scene.count('transfers', got.length)
        for (const fd of got) fd.closeSync()
      } else {
        await scene.settles('delete', store.delete(name))
        if (!kept.delete(name)) scene.problem(`${name} was deleted, and never put`)
      }
    } catch (error) {
      scene.told('call of the store', error, known === undefined ? ['ENOENT'] : [])
    }
  }
  const all = async () => {
    const names = (await store.list()).map((entry) => entry.name).filter((name) => name.startsWith('model-'))
    const missing = [...kept.keys()].filter((name) => !names.includes(name))
    if (missing.length > 0 || names.length !== kept.size)
      scene.problem(`the store has ${names.length} of ${kept.size}: ${missing.join()} missing`)
  }

  await Promise.all([
    scene.repeat(0, 40, () => alone(call)),
    scene.repeat(500, 2000, () => alone(all)),
    scene.attack(path),
    // Clients that put what expires, and are killed.
    scene.repeat(500, 2000, async () => {
      const program = scene.start(programPath('clients'), ['store', path, `${below(2 ** 31)}`])
      await delay(below(1500))
      program.child.kill('SIGKILL')
      scene.count('kills')
      await program.ended
    }),
    scene.repeat(3000, 8000, async () => {
      const way = below(6)
      if (way === 0) {
        // Nobody but the model is told: its calls have to wait.
        await alone(async () => {
          current.child.kill('SIGKILL')
          await current.ended
          scene.count('kills')
          scene.count('stores killed')
          kept.clear()
          current = await keeper(scene)
        })
      } else if (way === 1) {
        // A successor that is killed on its way. It may have been quicker.
        const successor = scene.start(fixturePath('services'), ['serve', path, '200'])
        const ready = successor.line()
        await delay(below(250))
        await alone(async () => {
          successor.child.kill('SIGKILL')
          scene.count('kills')
          scene.count('successors killed')
          await successor.ended
          const told = await Promise.race([current.ended.then(() => true), delay(1000, false)])
          if ((await ready) === undefined && !told) return
          await current.ended
          kept.clear()
          current = await keeper(scene)
        })
      } else {
        const next = await keeper(scene)
        const superseded = await scene.settles('superseded', current.line())
        if (superseded !== 'superseded') scene.problem(`the store before says ${superseded}`)
        const [code, signal] = await scene.settles('the end of a store', current.ended)
        if (code !== 0) scene.problem(`a store ended with ${code ?? signal}`)
        current = next
        scene.count('take-overs')
        await alone(all)
      }
    })
  ])
  store.close()
  current.child.kill('SIGKILL')
  await current.ended
})
