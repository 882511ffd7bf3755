import { mkdirSync, writeFileSync } from 'node:fs'
import { contents, path, step } from '../scenario.ts'

/** A helper that is started. */
export async function run(): Promise<void> {
  const { startBroker } = await import('fdpass/broker')
  mkdirSync(path('root'))
  writeFileSync(path('root/file'), 'inside')
  const broker = await step('start', () => startBroker({ roots: [path('root')], allow: undefined }))
  if (broker === undefined) return
  await step(
    'open',
    () => broker.open('file'),
    (descriptor) => contents([descriptor])
  )
  await step('open nothing', () => broker.open('nothing'))
  await step(
    'open again',
    () => broker.open('file'),
    (descriptor) => contents([descriptor])
  )
  await step('end', () => broker[Symbol.asyncDispose]())
}
