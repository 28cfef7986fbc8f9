// graphql-codegen: types from the running API's introspection. SCHEMA is its URL.
export default {
  schema: process.env.SCHEMA,
  documents: 'queries.graphql',
  generates: {
    './generated/trusted/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false, persistedDocuments: { hashAlgorithm: 'sha256' } },
      config: { scalars: { UnixTime: 'number', DateTime: 'string', Decimal: 'string' }, useTypeImports: true },
    },
    './generated/': {
      preset: 'client',
      presetConfig: { fragmentMasking: false },
      config: { scalars: { UnixTime: 'number', DateTime: 'string', Decimal: 'string' }, strictScalars: true, useTypeImports: true },
    },
  },
};
