// A broker's helper that is killed, and a broker that other processes use, which are killed. Whatever is opened has the content that
// belongs to its path, and each call is answered, or rejects.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { listen } from 'fdpass'
import { serveBroker, startBroker } from 'fdpass/broker'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { play, programPath } from './scene.ts'

const FILES = 20
const folder = temporaryFolder()
for (let i = 0; i < FILES; i++) writeFileSync(join(folder, `file-${i}`), `content ${i}`)

await play(async (scene) => {
  const { below } = scene.random
  const broker = await startBroker({ roots: [folder] })
  const path = join(folder, 'broker')
  const listener = await listen(path)
  const service = serveBroker(listener, { roots: [folder], allow: ({ operation }) => operation === 'open' })
  const allowed = ['ECONNRESET', 'EPIPE', 'EMFILE', 'ERR_CONTROL_TRUNCATED']

  const lane = async () => {
    while (!scene.stopped) {
      const file = below(FILES + 2)
      scene.count('opens')
      try {
        const fd = await scene.settles('open', broker.open(file < FILES ? `file-${file}` : '../secret'))
        if (file >= FILES) scene.problem('the broker has opened what is outside')
        if (readFileSync(fd.fd, 'utf8') !== `content ${file}`) scene.problem('the broker has opened another file')
        fd.closeSync()
        scene.count('transfers')
      } catch (error) {
        // An EMFILE of the helper's start is the answer of all who wait for it.
        scene.told('open', error, file < FILES ? allowed : [...allowed, 'EACCES'])
      }
      await delay(below(40))
    }
  }
  const visitor = async () => {
    await scene.room()
    const calls = below(200)
    const program = scene.start(programPath('clients'), ['broker', path, `${FILES}`, `${calls}`, `${below(2 ** 31)}`])
    if (scene.oneIn(2)) {
      await delay(below(800))
      program.child.kill('SIGKILL')
      scene.count('kills')
      await program.ended
      return
    }
    const seen = JSON.parse((await program.line()) ?? '{}') as Record<string, number>
    await program.ended
    const { right = 0, ...others } = seen
    for (const [code, times] of Object.entries(others)) {
      if (code === 'EMFILE' || code === 'ERR_CONTROL_TRUNCATED' || code === 'ECONNRESET')
        scene.count(`client of the broker: ${code}`, times)
      else scene.problem(`a client of the broker: ${times} ${code}`)
    }
    const all = Object.values(seen).reduce((total, times) => total + times, 0)
    if (all !== calls) scene.problem(`${calls - all} of ${calls} opens were not answered`)
    scene.count('opens', calls)
    scene.count('transfers', right)
  }
  await Promise.all([
    lane(),
    lane(),
    lane(),
    scene.repeat(1000, 4000, visitor),
    scene.repeat(1000, 4000, visitor),
    scene.repeat(2000, 6000, () => {
      if (broker.pid === null) return
      process.kill(broker.pid, 'SIGKILL')
      scene.count('kills')
      scene.count('helpers killed')
    }),
    scene.repeat(3000, 9000, () => scene.fillTable(200)),
    scene.attack(path)
  ])
  service.close()
  listener.close()
  await broker[Symbol.asyncDispose]()
})
