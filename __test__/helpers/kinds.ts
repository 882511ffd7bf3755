import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { constants, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Descriptor, type Kind, listen } from 'fdpass'
import { newFolder, newPath, temporaryFile, temporaryFolder } from './descriptors.ts'
import { finish, startPython } from './processes.ts'
import { text } from './sockets.ts'

/** A descriptor that another process has sent. */
export interface KindSample {
  readonly kind: Kind
  readonly title: string
  readonly descriptor: Descriptor
}

/** One of each kind, and what this machine cannot make. */
export interface KindSamples {
  readonly samples: readonly KindSample[]
  readonly missing: readonly (readonly [kind: Kind, title: string, reason: string])[]
  /** Closes the descriptors, and lets the other process end. */
  end(): Promise<void>
}

/**
 * A descriptor of each kind, sent by another process, which keeps the other ends; none where that process, which needs Linux and
 * Python 3.9, cannot run.
 */
export async function everyKind(runs: boolean): Promise<KindSamples> {
  if (!runs) {
    return {
      samples: [],
      missing: [['file', 'descriptor', 'needs Linux and Python 3.9']],
      end: () => Promise.resolve()
    }
  }
  const { socket, done } = startPython('every_kind', [temporaryFolder()])
  const message = (await socket.recv())!
  const [made, missing] = JSON.parse(text(message)!) as [[Kind, string][], KindSamples['missing']]
  return {
    samples: made.map(([kind, title], i) => ({ kind, title, descriptor: message.fds[i]! })),
    missing,
    async end() {
      message.close()
      socket.close()
      await done
    }
  }
}

/** Both ends of a new pseudoterminal in raw mode. */
export async function openPty(): Promise<[master: Descriptor, slave: Descriptor]> {
  const { socket, done } = startPython('pseudoterminal')
  const { fds } = (await socket.recv())!
  socket.close()
  await done
  return [fds[0]!, fds[1]!]
}

/** More than any pipe, socket or terminal holds here. */
export const MUCH = Buffer.alloc(3_000_000, 'much of it. ')

/** The error of a read or write that was ended. */
export interface Ended extends Error {
  readonly code: string
  readonly data: Buffer
  readonly bytesWritten: number
}

/** Opens a file with each of these flags. Deno does not let its own descriptors go, so another process opens them there. */
export async function openAll(path: string, ...flags: number[]): Promise<Descriptor[]> {
  if (!('deno' in process.versions)) return flags.map((flag) => Descriptor.from(openSync(path, flag)))
  const { socket, done } = startPython('send_opened', [path, ...flags.map(String)])
  const { fds } = (await socket.recv())!
  socket.close()
  await done
  return [...fds]
}

export const opened = async (path: string, flags = constants.O_RDONLY) => (await openAll(path, flags))[0]!

/** A new file with this content, for reading and writing. */
export const openNew = (content = '') => opened(temporaryFile(content), constants.O_RDWR)

/** Both ends of a new named pipe. */
export async function openFifo(): Promise<[read: Descriptor, write: Descriptor]> {
  const path = newPath('fifo')
  execFileSync('mkfifo', [path])
  // Opening one end would wait for the other.
  const [both, read, write] = await openAll(path, constants.O_RDWR, constants.O_RDONLY, constants.O_WRONLY)
  close(both!)
  return [read!, write!]
}

/** Closes descriptors. */
export const close = (...descriptors: Descriptor[]) => descriptors.forEach((descriptor) => descriptor.closeSync())

/** Container runtimes, by the command that starts them. crun refuses cgroups of both versions at once: it gets a mount namespace with version 2. */
const containerRuntimes: Record<string, readonly string[]> = {
  runc: ['runc'],
  crun: [
    'unshare',
    '-m',
    'sh',
    '-c',
    'mount --make-rprivate / && umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec crun --cgroup-manager=disabled "$@"',
    'sh'
  ]
}

let containers = 0

/** A container over this machine's programs. */
export class Container {
  readonly #command: readonly string[]
  readonly #folder = newFolder()
  readonly #id = `fdpass-${process.pid}-${containers++}`
  /** Whether the program runs here at all. A kernel in user mode ends some programs in Go. */
  readonly #isConfigured: boolean

  constructor(name: string, script: string, terminal = true) {
    this.#command = [...containerRuntimes[name]!, '--root', join(this.#folder, 'state')]
    mkdirSync(join(this.#folder, 'rootfs'))
    this.#isConfigured = spawnSync(name, ['spec'], { cwd: this.#folder }).status === 0
    if (!this.#isConfigured) return
    const file = join(this.#folder, 'config.json')
    const config = JSON.parse(readFileSync(file, 'utf8')) as ContainerConfig
    Object.assign(config.process, { args: ['sh', '-c', script], terminal })
    const programs = ['/bin', '/lib', '/lib64', '/usr'].map((path) => ({
      destination: path,
      source: path,
      type: 'bind',
      options: ['rbind', 'ro']
    }))
    config.mounts = [...config.mounts.filter(({ type }) => type !== 'cgroup'), ...programs]
    config.linux.namespaces = config.linux.namespaces.filter(({ type }) => type !== 'cgroup')
    delete config.linux.resources
    writeFileSync(file, JSON.stringify(config))
  }

  /** Returns whether the container runs to its end. */
  canRun(): boolean {
    return this.#isConfigured && this.#run('run', this.#id)
  }

  /** Deletes the container; returns false while it runs. */
  delete(): boolean {
    return this.#run('delete', this.#id)
  }

  #run(...args: readonly string[]): boolean {
    const [command, ...before] = [...this.#command, ...args]
    return spawnSync(command!, before, { cwd: this.#folder, stdio: 'ignore' }).status === 0
  }

  /** Starts the container, and receives its terminal as a console socket does. */
  async terminal(): Promise<Descriptor> {
    const server = await listen(newPath())
    const [command, ...before] = [...this.#command, 'run', '--detach', '--console-socket', server.address]
    const starting = finish(
      spawn(command!, [...before, this.#id], { cwd: this.#folder, stdio: ['ignore', 'ignore', 'inherit'] })
    )
    const runtime = await server.accept()
    const { fd } = await runtime.recvFd({ required: true })
    await starting
    for (const socket of [server, runtime]) socket.close()
    return fd
  }
}

interface ContainerConfig {
  process: { args: string[]; terminal: boolean }
  mounts: { destination: string; source: string; type: string; options?: string[] }[]
  linux: { namespaces: { type: string }[]; resources?: unknown }
}
