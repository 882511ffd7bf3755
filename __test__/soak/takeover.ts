// Servers that take over from one another, of HTTP and a superserver with workers, and successors that crash at each stage of their start.
// No client is refused or reset, each is answered.
import { once } from 'node:events'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { readAllOf } from '../helpers/connections.ts'
import { temporaryFolder } from '../helpers/descriptors.ts'
import { fixturePath } from '../helpers/processes.ts'
import { type Program, type Scene, play } from './scene.ts'

const folder = temporaryFolder()
const crashes = ['connected', 'asked', 'state', 'taken', 'serving']
let names = 0

async function row(scene: Scene, kind: 'net' | 'http' | 'superserver'): Promise<void> {
  const { below } = scene.random
  const path = join(folder, `${kind}-${names++}`)
  const begin = (crash = '') => {
    const options = { stdio: ['ignore', 'pipe', crash === '' ? 'inherit' : 'ignore'] } as const
    return scene.start(fixturePath('takeover-server'), [path, `server-${names++}`, kind, crash, '60000'], {
      ...options,
      stdio: [...options.stdio]
    })
  }
  const serving = async (program: Program) => {
    const port = Number(await scene.settles('the port of a server', program.line()))
    const ready = await scene.settles('a server', program.line())
    if (ready !== 'ready') throw new Error(`A ${kind} server is not ready: ${ready}`)
    return port
  }
  let current = begin()
  const port = await serving(current)
  let asked = 0
  const ask = async () => {
    const question = `question-${asked++}`
    const socket = connect({ host: '127.0.0.1', port })
    scene.count('connections')
    const began = performance.now()
    try {
      const answered = readAllOf(socket)
      answered.catch(() => {})
      await once(socket, 'connect')
      await delay(below(10))
      socket.write(kind === 'http' ? `GET /${question} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n` : question)
      const answer = String(await scene.settles('an answer', answered))
      if (!answer.endsWith(` ${question}`) && !(kind === 'http' && answer.includes(question))) {
        scene.problem(`${question} of a ${kind} server was answered: ${answer.slice(0, 200)}`)
      }
      scene.count('answered')
    } catch (error) {
      const age = Math.round(performance.now() - began)
      const heard = `${socket.bytesWritten} bytes said, ${socket.bytesRead} heard`
      scene.told(`a client of a ${kind} server in a row, ${age} ms old, ${heard}`, error, [])
    }
    socket.destroy()
  }
  await Promise.all([
    ...Array.from({ length: 5 }, () => scene.repeat(0, 100, ask)),
    scene.attack(path),
    scene.repeat(3000, 9000, async () => {
      if (scene.oneIn(3)) {
        const crash = crashes[below(crashes.length)]!
        const [, signal] = await scene.settles(`a successor that crashes: ${crash}`, begin(crash).ended)
        if (signal !== 'SIGKILL') scene.problem(`a successor has not crashed at ${crash}`)
        scene.count('kills')
        scene.count('successors killed')
        return
      }
      const next = begin()
      if ((await serving(next)) !== port) scene.problem('a successor serves elsewhere')
      for (const word of ['superseded', 'ended']) {
        const line = await scene.settles(`'${word}'`, current.line())
        if (line !== word) scene.problem(`a server says ${line} in the place of ${word}`)
      }
      const [code, signal] = await scene.settles('the end of a server', current.ended)
      if (code !== 0) scene.problem(`a server ended with ${code ?? signal}`)
      current = next
      scene.count('take-overs')
    })
  ])
  current.child.kill('SIGKILL')
  await current.ended
}

await play(async (scene) => {
  await Promise.all([row(scene, 'net'), row(scene, 'http'), row(scene, 'superserver')])
})
