// The helper of a broker. Descriptor 3 is its channel. The process runs this program twice: `restrict [UID GID]` drops the
// privileges that must be dropped before execve(2), then executes `serve`, which changes the user and handles requests.
import { stat } from 'node:fs/promises'
import { argv, execPath } from 'node:process'
import { Channel } from '../channel/index.ts'
import { type Credentials, UnixSocket } from '../socket/index.ts'
import { invalidValue, runArguments, type Identity } from '../base/internal.ts'
import { systemError, executeRestricted, setUndumpable } from '../native/internal.ts'
import { RequestHandler } from './request-handler.ts'
import { type BrokerPolicy, policyOf, readOnlyPolicy } from './policy.ts'
import { Roots } from './roots.ts'
import { parseService } from './service-sockets.ts'
import type { Settings } from './settings.ts'
import { MAX_MESSAGE_BYTES } from './request-message.ts'

const CHANNEL = 3

const [, program, step, user, group] = argv
if (step === 'restrict') restrict()
else serve()

function restrict(): void {
  try {
    // A helper that keeps its user loses CAP_SETGID at execve(2), so it changes its group first.
    const keepsUser = user === undefined || Number(user) === process.geteuid!()
    if (keepsUser && group !== undefined) assumeGroup(Number(group))
    const ids = keepsUser ? [] : [user!, group!]
    const command = [execPath, ...runArguments, program!, 'serve', ...ids]
    const code = executeRestricted(!keepsUser, CHANNEL + 1, execPath, command)
    throw systemError(code, 'execve')
  } catch (error) {
    openChannel().onRequest(() => {
      throw error
    })
  }
}

function serve(): void {
  // The helper exits only when its channel closes, which the parent's exit also causes.
  for (const signal of ['SIGINT', 'SIGHUP'] as const) process.on(signal, () => {})
  const channel = openChannel()
  channel.onRequest(async ({ value }) => {
    channel.onRequest(null)
    const handler = await prepare(value as Settings, channel)
    handler.serve(channel)
  })
}

function openChannel(): Channel {
  const channel = new Channel(UnixSocket.from(CHANNEL), { maxBytes: MAX_MESSAGE_BYTES, maxFds: 1 })
  void channel.closed.then(() => process.exit())
  return channel
}

/** Opens the roots and imports the policy with the parent's privileges, then changes the user. */
async function prepare(settings: Settings, channel: Channel): Promise<RequestHandler> {
  const { roots, directories, services, policy, openTimeout } = settings
  const decide = await policyFor(policy, channel)
  const opened = new Roots(roots, directories)
  const known = services.map((name, index) => parseService(`options.services[${index}]`, name, 'connect'))
  if (user !== undefined) assumeIdentity({ uid: Number(user), gid: Number(group) })
  process.umask(0o077)
  process.chdir('/')
  const code = setUndumpable()
  if (code < 0) throw systemError(code, 'prctl')
  return new RequestHandler(opened, known, decide, openTimeout)
}

async function policyFor(policy: Settings['policy'], channel: Channel): Promise<BrokerPolicy> {
  if (policy === 'none') return readOnlyPolicy
  if (policy === 'caller') return (request) => askCaller(channel, request)
  await checkModule(policy.module)
  const { default: decide } = (await import(policy.module)) as { default?: unknown }
  if (typeof decide !== 'function')
    throw invalidValue('options.allow', 'must name a module whose default export is a function')
  return policyOf('options.allow', decide) as (request: unknown, credentials: Credentials) => Promise<boolean>
}

/** Refuses a file whose content has no end, or does not arrive: a FIFO, a device. Node reports a missing one. */
async function checkModule(url: string): Promise<void> {
  if (!url.startsWith('file:')) return
  const found = await stat(new URL(url)).catch(() => undefined)
  if (found !== undefined && !found.isFile() && !found.isDirectory())
    throw invalidValue('options.allow', `must name a regular file: ${url}`)
}

async function askCaller(channel: Channel, request: unknown): Promise<boolean> {
  using answer = await channel.request(request)
  return answer.value === true
}

function assumeIdentity({ uid, gid }: Identity): void {
  assumeGroup(gid)
  process.setuid!(uid)
}

function assumeGroup(gid: number): void {
  process.setgroups!([])
  process.setgid!(gid)
}
