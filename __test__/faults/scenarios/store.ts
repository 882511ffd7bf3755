import { setTimeout as delay } from 'node:timers/promises'
import { contents, file, keep, path, step } from '../scenario.ts'

/** Entries of a store, and its successor. */
export async function run(): Promise<void> {
  const { connectStore, serveStore } = await import('fdpass/store')
  const one = file('one')
  const address = path('store')
  const service = keep(
    await step('serve', () =>
      serveStore({ path: address, takeover: path('store.takeover'), signal: AbortSignal.timeout(3000) })
    )
  )
  if (service === undefined) return
  const store = keep(await step('connect', () => connectStore(address)))
  if (store === undefined) return
  const signal = AbortSignal.timeout(4000)
  await step('put', () => store.put('a', one, { signal }))
  await step('put several', () => store.put('b', [one, one], { signal, expires: 60_000 }))
  await step('put again', () => store.put('a', one, { signal }))
  await step(
    'list',
    () => store.list({ signal }),
    (entries) => entries.map(({ name, kinds, uid }) => [name, kinds, uid])
  )
  await step('get', () => store.get('a', { signal }), contents)
  await step('get and remove', () => store.get('b', { signal, remove: true }), contents)
  const next = keep(
    await step('successor', () =>
      serveStore({ path: address, takeover: path('store.takeover'), signal: AbortSignal.timeout(3000) })
    )
  )
  if (next !== undefined) {
    await step('superseded', () => Promise.race([service.superseded, delay(1000)]))
    await step('get from it', () => store.get('a', { signal }), contents)
  }
  await step('delete', () => store.delete('a', { signal }))
}
