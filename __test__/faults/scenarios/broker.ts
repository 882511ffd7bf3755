import { mkdirSync, writeFileSync } from 'node:fs'
import { Descriptor, listen } from 'fdpass'
import { contents, keep, path, step } from '../scenario.ts'

/** What a descriptor is; it is closed. */
function kindOf(descriptor: Descriptor): unknown {
  try {
    return [descriptor.kind, null]
  } finally {
    descriptor.closeSync()
  }
}

/** A broker in this process: the client, and what opens files. */
export async function run(): Promise<void> {
  const { connectBroker, serveBroker } = await import('fdpass/broker')
  mkdirSync(path('root/folder'), { recursive: true })
  writeFileSync(path('root/folder/file'), 'inside')
  const listener = keep(await step('listen', () => listen(path('broker'))))
  if (listener === undefined) return
  const services = [`unix:${path('service')}`, 'tcp:127.0.0.1:0']
  const service = keep(
    await step('serve', () => serveBroker(listener, { roots: [path('root')], services, allow: () => true }))
  )
  if (service === undefined) return
  const broker = keep(await step('connect', () => connectBroker(path('broker'))))
  if (broker !== undefined) {
    await step(
      'open',
      () => broker.open('folder/file'),
      (descriptor) => contents([descriptor])
    )
    await step(
      'open anew',
      () => broker.open('folder/new', 'w+'),
      (descriptor) => contents([descriptor])
    )
    await step(
      'open to append',
      () => broker.open('folder/new', 'a'),
      (descriptor) => descriptor.closeSync()
    )
    await step('kind of a folder', () => broker.open('folder'), kindOf)
    await step('open nothing', () => broker.open('folder/nothing'))
    await step('open outside', () => broker.open('../file'))
    const unix = keep(await step('listen at a path', () => broker.listen(path('service'), { mode: 0o600 })))
    if (unix !== undefined)
      await step('kind of a connection to it', () => broker.connect(`unix:${path('service')}`), kindOf)
    await step('kind of a listener on TCP', () => broker.listen('tcp:127.0.0.1:0'), kindOf)
  }
}
